"""What only an accelerator can show. Set LMTRACE_TEST_DEVICE=cpu to run the same checks where there is none."""

from __future__ import annotations

import os

import pytest
import torch

from lmtrace.live.tracer import Tracer
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace.observe.instrument import Instrument
from lmtrace.records.schema import Record
from lmtrace.signals.curvature import Curvature
from lmtrace_helpers import tiny

DEVICE = torch.device(os.environ.get("LMTRACE_TEST_DEVICE", "cuda"))

pytestmark = pytest.mark.skipif(
    DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no CUDA device (set LMTRACE_TEST_DEVICE=cpu)"
)


def train(style, tokenizer, panel, run, *, dtype=None):
    """Return weights, optimizer state and the generator after six steps, with every signal or without."""
    torch.manual_seed(3)
    model = tiny(style, tokenizer).to(DEVICE).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batches = [torch.randint(5, len(tokenizer), (4, 9), device=DEVICE) for _ in range(6)]

    def loop(tracer):
        for ids in batches:
            with torch.autocast(DEVICE.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None):
                loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if tracer is not None:
                tracer.step(loss=loss)

    if run is None:
        loop(None)
    else:
        with Tracer(model, panel, optimizer=optimizer, signals="full", every=2, run=run, on_error="raise") as tracer:
            loop(tracer)
    state = [v for entry in optimizer.state_dict()["state"].values() for v in entry.values()]
    draw = torch.rand(4, device=DEVICE)  # the device's own generator goes on where it was
    return [*model.state_dict().values(), *(v for v in state if isinstance(v, torch.Tensor)), draw]


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bf16 autocast"])
@pytest.mark.parametrize("style", ["gpt2", "llama", "bert", "t5"])
def test_training_is_bit_identical(style, dtype, tokenizer, panel, tmp_path):
    plain = train(style, tokenizer, panel, None, dtype=dtype)
    again = train(style, tokenizer, panel, None, dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True)), "not deterministic by itself"
    traced = train(style, tokenizer, panel, tmp_path / "run", dtype=dtype)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def numbers(records: list[Record]) -> dict[tuple[str | None, ...], float]:
    return {
        (r.signal, r.metric, r.site, r.label, r.split): r.value
        for r in records
        if r.value is not None and r.signal != "cost"
    }


def test_the_device_gives_the_numbers_of_the_cpu(tokenizer, panel):
    """Argmaxes and neighbours may differ in a few of thousands; means may not differ by more than rounding."""
    names = ["output", "dimension", "lens", "similarity", "curvature", "attention", "weights"]
    from lmtrace.signals import resolve

    model = tiny("gpt2", tokenizer)
    cpu = numbers(Instrument(model, panel, resolve(names), on_error="raise").measure(0))
    device = numbers(Instrument(model.to(DEVICE), panel, resolve(names), on_error="raise").measure(0))
    assert device.keys() == cpu.keys()
    close = [device[k] == pytest.approx(cpu[k], rel=5e-3, abs=5e-3) for k in cpu]
    assert sum(close) > 0.98 * len(close)
    for key in cpu:
        if key[0] == "output" and key[1] == "loss":
            assert device[key] == pytest.approx(cpu[key], abs=1e-4), key


@pytest.mark.parametrize("style", ["gpt2", "llama"])
def test_fused_attention_has_second_derivatives_here(style, tokenizer):
    """The model trains with fused kernels, which have none: the operator enters the plain backend for its own pass."""
    model = tiny(style, tokenizer).to(DEVICE).eval()
    model.set_attn_implementation("sdpa")  # pyright: ignore[reportCallIssue]
    ids = torch.randint(5, len(tokenizer), (4, 9), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    operator = HessianOperator(lambda: model(input_ids=ids, labels=ids).loss, dict(model.named_parameters()))
    assert operator.method == "double backward"
    generator = torch.Generator(DEVICE).manual_seed(1)
    u, v = (torch.randn(operator.size, generator=generator, device=DEVICE) for _ in range(2))
    hu, hv = operator(u), operator(v)
    assert float(u @ hv) == pytest.approx(float(v @ hu), rel=1e-3, abs=1e-3 * float(hu.norm()))
    double = tiny(style, tokenizer).double().eval()
    there = ids.cpu()
    exact = HessianOperator(lambda: double(input_ids=there, labels=there).loss, dict(double.named_parameters()))
    expected = exact(v.cpu().double())
    assert float((hv.cpu().double() - expected).norm() / expected.norm()) < 1e-3


def test_half_precision_weights_give_numbers_or_reasons(tokenizer, panel):
    from lmtrace.signals import resolve

    model = tiny("llama", tokenizer).to(DEVICE, torch.bfloat16)
    records = Instrument(model, panel, resolve("standard"), on_error="raise").measure(0)
    assert all((r.value is not None) or r.missing or r.array is not None for r in records)
    assert any(r.signal == "output" and r.metric == "loss" and r.value is not None for r in records)


def test_memory_of_the_device_is_bounded_by_micro_batches(tokenizer, panel):
    if DEVICE.type != "cuda":
        pytest.skip("counts the allocator of the device")
    model = tiny("gpt2", tokenizer).to(DEVICE)
    peaks = []
    for limit in (2**25, 2**12):
        torch.cuda.reset_peak_memory_stats()
        Instrument(model, panel, [Curvature(max_logits=limit)], max_logits=limit, on_error="raise").measure(0)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]
