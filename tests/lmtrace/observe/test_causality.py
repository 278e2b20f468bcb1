"""A model that sees what it should predict is found out, whatever its loss; one that does not raises no alarm."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertLMHeadModel

import lmtrace
from lmtrace.jobs.models import STYLES
from lmtrace.observe.causality import future_seen
from lmtrace.observe.forward import objective_of
from lmtrace_helpers import PlainModel, tiny


class Inverted(PlainModel):
    """Its mask hides the past and shows the future, as in published code."""

    def forward(self, ids):
        return super().forward(ids.flip(1)).flip(1)


@pytest.mark.parametrize("style", [*STYLES, "plain"])
def test_no_family_raises_an_alarm(style, panel, tokenizer):
    model = PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer)
    with torch.no_grad():
        assert future_seen(model.eval(), panel.with_objective(objective_of(model))) is None


def test_an_inverted_mask_is_a_finding(panel, tokenizer, tmp_path, caplog):
    run = lmtrace.analyze(Inverted(len(tokenizer)), panel, run=tmp_path / "run", signals="output")
    assert "The model sees the future" in caplog.text
    first = run.findings()[0]
    assert first.kind == "leak"
    assert first.sentence.startswith("The model sees the future: another last token changes")
    assert first.numbers["change"] > 0.05


def test_an_encoder_used_as_a_decoder_is_found_once(panel, tokenizer, tmp_path):
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(0)
    model = BertLMHeadModel(
        config
    )  # without is_decoder it looks both ways, though it hardly looks yet: by .0005 to .0015
    with lmtrace.Tracer(model, panel, run=tmp_path / "run", signals="output", every=1) as tracer:
        tracer.step()
    with lmtrace.open_run(tmp_path / "run") as run:
        assert [event.step for event in run.events("leak")] == [0]
