"""Hessian-vector products of every family against float64 finite differences, by both methods."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lmtrace.numerics.hessian import hessian_spectrum
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace_helpers import tiny
from reference.curvature import hvp_finite_difference


def problem(style: str, tokenizer, dtype: torch.dtype):
    """A tiny model in evaluation mode and its mean loss over the valid tokens of sequences of unequal length."""
    generator = torch.Generator().manual_seed(0)
    if style == "mlp":
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 4)).to(dtype)
        x, y = torch.randn(20, 6, generator=generator).to(dtype), torch.randint(0, 4, (20,), generator=generator)
        return model, lambda: nn.functional.cross_entropy(model(x), y)
    model = tiny(style.removesuffix("-gelu"), tokenizer, "2x32")
    if style == "t5-gelu":
        settings = {**model.config.to_dict(), "dense_act_fn": "gelu_new", "is_gated_act": True}
        settings["feed_forward_proj"] = "gated-gelu"
        torch.manual_seed(0)
        model = type(model)(type(model.config).from_dict(settings))
    model = model.to(dtype).eval()
    if style == "mixtral" and dtype == torch.float64:
        model.set_experts_implementation("eager")  # the grouped matrix product has no float64
    ids = torch.randint(4, len(tokenizer), (3, 6), generator=generator)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 3 + [0] * 3])
    labels = ids.masked_fill(mask == 0, -100)

    def loss() -> Tensor:
        extra = {"labels": labels.clamp_min(0)} if style.startswith("t5") else {}
        logits = model(input_ids=ids, attention_mask=mask, **extra).logits
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())

    return model, loss


@pytest.fixture
def no_float32_islands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep float64 where the models' own code rounds to float32 (RMS norms), so that the reference has its digits."""
    to, to_float = Tensor.to, Tensor.float

    def wide_to(self, *args, **kwargs):
        if self.dtype == torch.float64 and (torch.float32 in args or kwargs.get("dtype") == torch.float32):
            return self
        return to(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "to", wide_to)
    monkeypatch.setattr(Tensor, "float", lambda self: self if self.dtype == torch.float64 else to_float(self))


@pytest.mark.parametrize("style", ["mlp", "gpt2", "llama", "gpt_neox", "mixtral", "bert", "t5"])
@pytest.mark.usefixtures("no_float32_islands")
def test_double_backward_equals_finite_differences(style, tokenizer):
    model, loss = problem(style, tokenizer, torch.float64)
    params = [p for p in model.parameters() if p.requires_grad]
    operator = HessianOperator(loss, params)
    u, v = torch.randn(2, operator.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    u, v = u / u.norm(), v / v.norm()
    hv = operator(v)
    assert operator.method == "double backward", operator.reason
    # ReLU (T5) has kinks: a step across one sees another derivative on its other side.
    reference = hvp_finite_difference(loss, params, v, step=1e-5 if style == "t5" else 1e-3)
    assert float((hv - reference).norm() / reference.norm()) < 3e-8
    assert float(u @ hv) == pytest.approx(float(v @ operator(u)), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("style", ["mlp", "gpt2", "llama", "gpt_neox", "bert", "t5-gelu"])
def test_central_differences_equal_double_backward_in_float32(style, tokenizer):
    model, loss = problem(style, tokenizer, torch.float32)
    exact = HessianOperator(loss, model.parameters())
    few = HessianOperator(loss, model.parameters(), method="central differences")
    v = torch.randn(exact.size, generator=torch.Generator().manual_seed(1))
    expected, got = exact(v), few(v)
    assert exact.method == "double backward", exact.reason
    assert float((got - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("style", ["t5", "mixtral"])
def test_kinks_give_a_right_spectrum_or_none(style, tokenizer):
    model, loss = problem(style, tokenizer, torch.float32)
    exact = hessian_spectrum(loss, model.parameters(), tol=0.01, smallest=False)
    few = hessian_spectrum(loss, model.parameters(), tol=0.01, smallest=False, method="central differences")
    if few.largest is None:
        assert "kinks" in few.note
    else:
        assert few.largest == pytest.approx(exact.largest, rel=0.05)
