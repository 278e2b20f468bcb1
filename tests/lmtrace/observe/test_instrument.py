"""One measurement: signals side by side on the CPU give what they give one after the other."""

from __future__ import annotations

import threading

import pytest
import torch
from transformers import RobertaConfig, RobertaForMaskedLM

from lmtrace.observe.forward import table_length
from lmtrace.observe.instrument import Instrument
from lmtrace.observe.interface import Needs, Signal
from lmtrace.records.schema import Field
from lmtrace.signals import resolve
from lmtrace_helpers import PlainModel, tiny

NAMES = ["output", "probe", "dimension", "similarity", "lens"]


class Thread(Signal):
    """Tells in which kind of place it runs."""

    name, cost, source = "thread", "none", "test"
    fields = tuple(Field(metric=name, title=name) for name in ("main", "gradients", "threads"))

    def needs(self, panel):
        return Needs(sites=("embed",))

    def measure(self, view):
        yield self.record(view, "main", float(threading.current_thread() is threading.main_thread()), n=1)
        yield self.record(view, "gradients", float(torch.is_grad_enabled()), n=1)
        # The first parallel operation of a thread is where torch sets its number of threads.
        torch.ones(300_000).add_(1)
        yield self.record(view, "threads", float(torch.get_num_threads()), n=1)


class Broken(Thread):
    name = "broken"

    def measure(self, view):
        raise RuntimeError("no luck")
        yield


def found(records):
    return {
        (r.signal, r.metric, r.site, r.label, r.split): (r.value, r.stderr, r.n, r.null, r.missing)
        for r in records
        if r.signal != "cost"
    }


@pytest.fixture
def threads():
    """Set the number of torch's threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_side_by_side_equals_one_after_the_other(gpt2, panel, threads):
    threads(1)
    alone = Instrument(gpt2, panel, resolve(NAMES), on_error="raise")
    one = [alone.measure(step) for step in (0, 5)]
    threads(4)
    together = Instrument(gpt2, panel, resolve(NAMES), on_error="raise")
    both = [together.measure(step) for step in (0, 5)]
    for a, b in zip(one, both, strict=True):
        assert [r.signal for r in a] == [r.signal for r in b]
        first, second = found(a), found(b)
        assert first.keys() == second.keys()
        for key, left in first.items():
            for x, y in zip(left, second[key], strict=True):
                assert x == y or x == pytest.approx(y, rel=1e-6, abs=1e-9), key


def test_threads_share_the_cores_and_the_caller_keeps_his(gpt2, panel, threads):
    threads(2)
    instrument = Instrument(gpt2, panel, [Thread(), *resolve(["probe"])], on_error="raise")
    values = {r.metric: r.value for r in instrument.measure(0) if r.signal == "thread"}
    assert values["main"] == 0
    assert values["gradients"] == 0
    assert values["threads"] == 1
    assert torch.get_num_threads() == 2
    assert set(instrument.spent) == {0, 1}


def test_a_signal_that_breaks_beside_others_is_missing_and_they_are_not(gpt2, panel, threads):
    threads(2)
    records = Instrument(gpt2, panel, [Broken(), Thread()]).measure(0)
    assert {r.missing for r in records if r.signal == "broken"} == {"RuntimeError: no luck"}
    assert all(r.value is not None for r in records if r.signal == "thread")
    with pytest.raises(RuntimeError, match="no luck"):
        Instrument(gpt2, panel, [Broken(), Thread()], on_error="raise").measure(0)


def test_the_context_is_what_the_table_of_positions_holds(tokenizer):
    size = {"vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    roberta = RobertaConfig(**size, intermediate_size=32, max_position_embeddings=34, pad_token_id=1)
    assert table_length(RobertaForMaskedLM(roberta)) == 32  # its positions begin after the padding's id
    for style in ("gpt2", "opt", "bert"):
        assert table_length(tiny(style, tokenizer)) == 32
    for style in ("llama", "t5", "mamba", "plain"):
        assert table_length(PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer)) is None
