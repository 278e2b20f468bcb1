"""The signal gradient on models: its norms are those of backward, its cosine and noise scale those of the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lmtrace.errors import ConfigError
from lmtrace.observe.forward import inputs_of, logits_of, mean_loss
from lmtrace.observe.instrument import Instrument
from lmtrace.signals.gradient import Gradient
from lmtrace.text.panel import Panel
from lmtrace_helpers import tiny
from planted_view import find


def by_backward(model, panel, start: int, size: int) -> dict[str, torch.Tensor]:
    """The gradient of one micro-batch, the plain way."""
    model.eval()
    model.zero_grad()
    batch = next(iter(panel.batches(size, indices=panel.shuffled[start : start + size])))
    inputs = inputs_of(batch, torch.device("cpu"))
    mean_loss(logits_of(model(**inputs, use_cache=False), inputs), batch).backward()
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    return found


def flat(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.double().ravel() for g in gradients.values()])


@pytest.mark.parametrize("style", ["gpt2", "llama", "bert", "t5"])
def test_norms_are_those_of_backward(style, panel, tokenizer):
    model = tiny(style, tokenizer)
    instrument = Instrument(model, panel, [Gradient(num_sequences=16, num_batches=4)], on_error="raise")
    records = [r for r in instrument.measure(0) if r.signal == "gradient"]
    parts = [by_backward(model, instrument.panel, 4 * i, 4) for i in range(4)]
    mean = {name: sum(part[name] for part in parts) / 4 for name in parts[0]}
    assert find(records, "norm", site=None, label=None).value == pytest.approx(float(flat(mean).norm()), rel=1e-4)
    labels = [r.value for r in records if r.metric == "norm" and r.label]
    assert math.sqrt(sum(v**2 for v in labels)) == pytest.approx(float(flat(mean).norm()), rel=1e-4)
    blocks = {r.site: r.value for r in records if r.metric == "norm" and r.site}
    inside = [g for n, g in mean.items() if any(f"{k}.0." in n for k in ("h", "layer", "layers", "encoder.block"))]
    first = "encoder.block.0" if style == "t5" else "block.0"
    expected = math.sqrt(sum(float(g.double().square().sum()) for g in inside if style != "t5"))
    if style != "t5":
        assert blocks[first] == pytest.approx(expected, rel=1e-4)
    assert len(blocks) == (4 if style == "t5" else 2)

    gradients = np.stack([flat(p).numpy() for p in parts])
    gram = gradients @ gradients.T
    squares, pairs = np.trace(gram) / 4, (gram.sum() - np.trace(gram)) / 12
    scale = find(records, "noise_scale")
    if pairs > 0:
        assert scale.value == pytest.approx(4 * (squares - pairs) / pairs, rel=1e-3)
    else:
        assert "do not agree" in scale.missing


def test_a_source_in_documents_is_sampled_at_random(gpt2, panel):
    short = sorted(panel.sentences, key=len)[:8]  # two documents, each of few sentences said over and over
    long = sorted(panel.sentences, key=len)[-8:]
    documents = Panel.from_annotated([*(4 * short), *(4 * long)], panel.tokenizer, size=64)
    instrument = Instrument(gpt2, documents, [Gradient(num_sequences=64, num_batches=8)], on_error="raise")
    records = [r for r in instrument.measure(0) if r.signal == "gradient"]
    each = torch.stack([flat(by_backward(gpt2, documents, i, 1)) for i in range(64)])
    exact = float(each.var(0, correction=0).sum() / each.mean(0).square().sum())
    scale = find(records, "noise_scale")
    assert abs(scale.value - exact) < 4 * scale.stderr
    assert scale.value < 2.5 * exact
    read = {len(documents.sentences[i]) for i in documents.shuffled[:16]}
    assert min(read) <= max(map(len, short))
    assert max(read) >= min(map(len, long))


def test_the_cosine_with_the_gradient_before(gpt2, panel):
    instrument = Instrument(gpt2, panel, [Gradient(num_sequences=8, num_batches=2)], on_error="raise")
    assert find(instrument.measure(0), "cosine_previous").missing == "nothing to compare with yet"
    assert find(instrument.measure(1), "cosine_previous").value == pytest.approx(1.0, abs=1e-5)

    def mean() -> torch.Tensor:
        parts = [flat(by_backward(gpt2, instrument.panel, 4 * i, 4)) for i in range(2)]
        return (parts[0] + parts[1]) / 2

    before = mean()
    with torch.no_grad():
        for p in gpt2.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    expected = float(torch.nn.functional.cosine_similarity(before, mean(), dim=0))
    assert find(instrument.measure(2), "cosine_previous").value == pytest.approx(expected, abs=0.03)


def test_a_gradient_that_is_not_finite_is_missing(gpt2, panel):
    with torch.no_grad():
        gpt2.transformer.wte.weight[5] = torch.inf
    records = Instrument(gpt2, panel, [Gradient()], on_error="raise").measure(0)
    assert {r.missing for r in records if r.signal == "gradient"} == {"the gradient is not finite"}


def test_a_frozen_model_has_no_gradient(gpt2, panel):
    gpt2.requires_grad_(False)
    records = Instrument(gpt2, panel, [Gradient()], on_error="raise").measure(0)
    gpt2.requires_grad_(True)
    assert {r.missing for r in records if r.signal == "gradient"} == {"no parameter requires a gradient"}


def test_wrong_settings_are_errors():
    with pytest.raises(ConfigError, match="num_batches must be from 2 to num_sequences, got 1 and 32"):
        Gradient(num_batches=1)
