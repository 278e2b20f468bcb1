"""Every family that we build: no decoder sees the future, and its training loss is that of the next token."""

from __future__ import annotations

import pytest
import torch

from lmtrace.jobs.data import Collator
from lmtrace.jobs.models import STYLES, build_model
from lmtrace.observe.forward import objective_of
from lmtrace_helpers import PlainModel, tiny

LENGTH = 12


def built(style, tokenizer):
    return (PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer, "2x32")).eval()


def logits(model, style, ids):
    """Return the logits over `ids`; an encoder-decoder reads always the same source."""
    with torch.no_grad():
        if style == "plain":
            return model(ids)
        if model.config.is_encoder_decoder:
            source = torch.arange(5, 12).expand(len(ids), -1)
            return model(input_ids=source, decoder_input_ids=ids).logits
        return model(input_ids=ids).logits


def moved(model, style, tokenizer, at):
    """Return [length]: how far the logits of each position move when the token at `at` becomes another one."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, len(tokenizer), (3, LENGTH), generator=generator)
    changed = ids.clone()
    changed[:, at] = 5 + (ids[:, at] - 4) % (len(tokenizer) - 5)
    return (logits(model, style, ids) - logits(model, style, changed)).abs().amax((0, 2))


@pytest.mark.parametrize("style", [*STYLES, "plain"])
def test_a_future_token_moves_no_earlier_logit(style, tokenizer):
    model = built(style, tokenizer)
    for at in (1, LENGTH // 2, LENGTH - 1):
        change = moved(model, style, tokenizer, at)
        assert (change[at:] > 0).all(), "the past is read: the test would see a leak"
        if objective_of(model) == "masked":
            assert (change[:at] > 0).all(), "a model that looks ahead is seen to do so"
        else:
            assert (change[:at] == 0).all(), f"{style} sees token {at} from {change[:at].nonzero().tolist()}"


@pytest.mark.parametrize("style", list(STYLES))
def test_the_training_loss_is_that_of_the_right_token_at_its_place(style, tokenizer):
    model = built(style, tokenizer)
    objective = objective_of(model)
    rows = [
        {"input_ids": list(range(5, 5 + n)), "labels": list(range(7, 7 + n))} for n in (4, 9, 6)
    ]  # of unlike lengths: padding must not count
    torch.manual_seed(1)
    batch = Collator(tokenizer, objective)(rows)
    with torch.no_grad():
        out = model(**batch)
    expected = []
    for r, row in enumerate(rows):
        n = len(row["input_ids"])
        log_probs = out.logits[r].double().log_softmax(-1)
        if objective == "causal":
            expected += [-log_probs[t - 1, row["input_ids"][t]] for t in range(1, n)]
        elif objective == "seq2seq":
            expected += [-log_probs[t, row["labels"][t]] for t in range(n)]
        else:
            chosen = (batch["labels"][r] != -100).nonzero().flatten().tolist()
            assert all(t < n for t in chosen)
            expected += [-log_probs[t, row["input_ids"][t]] for t in chosen]
    loss = out.loss
    if style == "mixtral":
        loss = loss - model.config.router_aux_loss_coef * (out.aux_loss or 0.0)
    assert float(loss) == pytest.approx(float(torch.stack(expected).mean()), abs=2e-6)


def test_the_seed_alone_decides_the_weights(tokenizer):
    state = torch.get_rng_state()
    specials = {"pad": 0, "bos": 2, "eos": 3}
    a, b, c = (build_model("gpt2", "2x32", 50, specials=specials, seed=seed) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    assert all(torch.equal(p, q) for p, q in pairs)
    assert not torch.equal(a.transformer.wte.weight, c.transformer.wte.weight)
