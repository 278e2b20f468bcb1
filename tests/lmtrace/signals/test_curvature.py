"""The signal curvature against dense Hessians, and what it does where there is no number."""

from __future__ import annotations

import copy
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torch import Tensor, nn

from lmtrace.errors import ConfigError, DataError, ModelError
from lmtrace.numerics.hessian_operator import HessianOperator
from lmtrace.numerics.hutchinson import rademacher
from lmtrace.observe.instrument import Instrument
from lmtrace.records.schema import Record
from lmtrace.signals.curvature import FIELDS, Curvature
from lmtrace_helpers import PlainModel, tiny
from reference.curvature import dense_hessian, flat, tiny_gpt_problem

EVERYTHING = tuple(FIELDS)
PANEL_STYLES = ["gpt2", "llama", "gpt_neox", "mixtral", "bert", "t5"]


@dataclass
class FakeView:
    """As much of a view as the signal may use."""

    model: nn.Module
    panel_loss: Callable[[], Tensor]
    batch_loss: Callable[[], Tensor] | None = None
    given: torch.optim.Optimizer | None = None
    step: int = 0
    memory: dict[str, Tensor] = field(default_factory=dict)
    known_sites: None = None

    def loss(self, num_sequences: int) -> Callable[[], Tensor]:
        return self.panel_loss

    def train_loss(self, num_sequences: int | None = None) -> Callable[[], Tensor]:
        if self.batch_loss is None:
            raise DataError("no training batch has been seen yet")
        return self.batch_loss

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        if self.given is None:
            raise DataError("no optimizer was given")
        return self.given

    def generator(self, purpose: str = "") -> torch.Generator:
        return torch.Generator().manual_seed(1 + sum(map(ord, purpose)))


def measure(view: FakeView, **options: Any) -> dict[tuple[str, str | None, str | None], Record]:
    signal = Curvature(**options)
    fields = {f.metric: f for f in signal.fields}
    found = {}
    for record in signal.measure(view):  # pyright: ignore[reportArgumentType]
        record.check(fields)
        key = (record.metric, record.site, record.split)
        assert key not in found
        found[key] = record
    return found


@pytest.fixture(scope="module")
def problem():
    """A tiny GPT, its panel loss, another batch's loss, and both dense Hessians."""
    model, loss = tiny_gpt_problem()
    ids = torch.randint(0, 11, (4, 6), generator=torch.Generator().manual_seed(5))
    other = lambda: nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())  # noqa: E731
    params = list(model.parameters())
    return model, loss, other, dense_hessian(loss, params), dense_hessian(other, params)


def test_spectrum_trace_and_alignment_equal_the_dense_hessian(problem):
    model, loss, _, dense, _ = problem
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    view = FakeView(model, loss, given=optimizer)
    got = measure(view, top=3, tolerance=1e-4, max_products=300)
    eigenvalues, vectors = torch.linalg.eigh(dense)
    assert got["lambda_max", None, None].value == pytest.approx(float(eigenvalues[-1]), rel=1e-6)
    assert got["lambda_min", None, None].value == pytest.approx(float(eigenvalues[0]), rel=1e-6)
    np.testing.assert_allclose(got["eigenvalues", None, None].array, eigenvalues.flip(0)[:3], rtol=1e-6)
    assert got["edge", None, None].value == pytest.approx(float(eigenvalues[-1]) * 0.1, rel=1e-6)
    assert got["double_backward", None, None].value == 1.0

    generator, size = view.generator("probes"), len(dense)
    probes = [rademacher(size, generator, torch.float64, torch.device("cpu")) for _ in range(10)]
    forms = np.array([float(v @ dense @ v) for v in probes])
    trace = got["trace", None, None]
    assert trace.value == pytest.approx(forms.mean(), rel=1e-9)
    assert trace.stderr == pytest.approx(forms.std(ddof=1) / 10**0.5, rel=1e-9)
    assert trace.n == 10

    g = flat(torch.autograd.grad(loss(), list(model.parameters())))
    hg, top = dense @ g, vectors[:, -3:]
    assert got["gradient_norm", None, None].value == pytest.approx(float(g.norm()))
    assert got["amplification", None, None].value == pytest.approx(float(hg.norm() / g.norm()), rel=1e-8)
    assert got["cosine", None, None].value == pytest.approx(float(g @ hg / g.norm() / hg.norm()), rel=1e-8)
    assert got["rayleigh", None, None].value == pytest.approx(float(g @ hg / (g @ g)), rel=1e-8)
    cosines = ((top.T @ g) / g.norm()).flip(0)
    assert got["top_cosine", None, None].value == pytest.approx(abs(float(cosines[0])), abs=1e-3)
    assert got["top_share", None, None].value == pytest.approx(float((cosines**2).sum()), abs=1e-3)
    assert got["top_share", None, None].null == pytest.approx(3 / size)
    weights = eigenvalues.flip(0)[:3].abs()
    expected = float(weights @ cosines**2 / weights.sum())
    assert got["weighted", None, None].value == pytest.approx(expected, abs=1e-3)


def test_components_are_diagonal_blocks_and_add_up_to_the_trace(problem):
    model, loss, _, dense, _ = problem
    view = FakeView(model, loss)
    got = measure(view, quantities=("trace", "components", "component_spectrum"), num_probes=400, tolerance=1e-4)
    entries = {}
    start = 0
    for name, p in model.named_parameters():
        entries[name] = range(start, start + p.numel())
        start += p.numel()
    groups = {
        "embedding": ["wte.weight", "wpe.weight"],
        "attention.q": ["h.0.q_proj.weight", "h.0.q_proj.bias"],
        "attention.v": ["h.0.v_proj.weight", "h.0.v_proj.bias"],
        "mlp": ["h.0.up.weight", "h.0.up.bias", "h.0.down.weight", "h.0.down.bias"],
        "norm": [n for n in entries if "ln_" in n],
    }
    for component, names in groups.items():
        index = [i for name in names for i in entries[name]]
        block = dense[index][:, index]
        trace = got["component_trace", component, None]
        assert trace.value == pytest.approx(float(block.trace()), abs=4 * trace.stderr)
        sharpness = got["component_lambda_max", component, None].value
        assert sharpness == pytest.approx(float(torch.linalg.eigvalsh(block)[-1]), rel=1e-5)
    index = [i for n, r in entries.items() if n.startswith("h.0") for i in r]
    record = got["block_trace", "block.0", None]
    assert record.value == pytest.approx(float(dense[index][:, index].trace()), abs=4 * record.stderr)
    total = sum(r.value for (metric, _, _), r in got.items() if metric == "component_trace")
    assert total == pytest.approx(got["trace", None, None].value, rel=1e-9)


def test_landscape_of_two_batches_equals_both_dense_hessians(problem):
    model, loss, other, dense, there = problem
    got = measure(
        FakeView(model, loss, other), quantities=("landscape",), top=2, tolerance=1e-4, max_products=300, num_probes=200
    )
    (a, u), (b, v) = torch.linalg.eigh(dense), torch.linalg.eigh(there)
    value = {metric: record.value for (metric, _, _), record in got.items()}
    assert value["train_loss"] == pytest.approx(other().item())
    assert value["loss_gap"] == pytest.approx((loss() - other()).item())
    assert value["train_lambda_max"] == pytest.approx(float(b[-1]), rel=1e-5)
    assert value["lambda_max_gap"] == pytest.approx(float(a[-1] - b[-1]), abs=1e-3)
    assert value["lambda_max_ratio"] == pytest.approx(float(a[-1] / b[-1]), rel=1e-4)
    assert value["overlap"] == pytest.approx(float(((u[:, -2:].T @ v[:, -2:]) ** 2).sum()) / 2, abs=1e-3)
    gap = got["trace_gap", None, None]
    assert gap.value == pytest.approx(float(dense.trace() - there.trace()), abs=4 * gap.stderr)
    assert got["overlap", None, None].null == pytest.approx(2 / len(dense))


def test_the_same_batch_twice_diverges_by_exactly_zero(problem):
    model, loss, *_ = problem
    got = measure(FakeView(model, loss, loss), quantities=("landscape",), top=2, max_products=300)
    value = {metric: record.value for (metric, _, _), record in got.items()}
    assert value["loss_gap"] == 0.0
    assert value["trace_gap"] == 0.0
    assert got["trace_gap", None, None].stderr == 0.0
    assert value["lambda_max_gap"] == 0.0
    assert value["trace_ratio"] == 1.0
    assert value["lambda_max_ratio"] == 1.0
    assert value["overlap"] == 1.0


def test_preconditioned_sharpness_is_that_of_adams_own_matrix():
    model, loss = tiny_gpt_problem(seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, betas=(0.8, 0.95), eps=1e-6)
    for _ in range(4):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    got = measure(
        FakeView(model, loss, given=optimizer), quantities=("preconditioned",), tolerance=1e-4, max_products=300
    )
    params = list(model.parameters())
    second = flat([optimizer.state[p]["exp_avg_sq"] for p in params])
    scale = (1 - 0.8**4) * ((second / (1 - 0.95**4)).sqrt() + 1e-6)
    expected = float(torch.linalg.eigvals(dense_hessian(loss, params) / scale[:, None]).real.max())
    value = got["preconditioned_lambda_max", None, None].value
    assert value == pytest.approx(expected, rel=1e-5)
    # Adam with beta_1 is stable up to lambda = 2 (1 + beta_1) / ((1 - beta_1) eta).
    assert got["preconditioned_edge", None, None].value == pytest.approx(
        value / ((2 - 0.003 * 0.01) * 1.8 / (0.2 * 0.003))  # its default decay of .01 is decoupled
    )


def test_density_describes_the_dense_spectrum(problem):
    model, loss, _, dense, _ = problem
    got = measure(
        FakeView(model, loss), quantities=("spectrum", "density"), top=4, density_probes=30, density_steps=60,
        max_products=300,
    )  # fmt: skip
    eigenvalues = torch.linalg.eigvalsh(dense).numpy()
    p = np.abs(eigenvalues) / np.abs(eigenvalues).sum()
    rank = np.exp(-(p[p > 0] * np.log(p[p > 0])).sum())
    assert got["entropy_rank", None, "density"].value == pytest.approx(rank, rel=0.15)
    assert abs(got["entropy_rank", None, "density"].value - rank) < 3 * got["entropy_rank", None, "density"].stderr
    assert got["frobenius", None, "density"].value == pytest.approx((eigenvalues**2).sum() ** 0.5, rel=0.1)
    negative = np.abs(eigenvalues[eigenvalues < 0]).sum() / np.abs(eigenvalues).sum()
    assert got["negative_mass", None, "density"].value == pytest.approx(negative, abs=0.05)
    spread = (2 * (eigenvalues**2).sum() / 30) ** 0.5
    assert got["score", None, "density"].value == pytest.approx(
        eigenvalues.sum() / rank**0.5, abs=4 * spread / rank**0.5
    )
    top = np.sort(eigenvalues)[::-1][:4]
    assert got["condition_number", None, "top-4"].value == pytest.approx(top[0] / top[3], rel=1e-2)
    # What the whole spectrum says and what its top says are different things, so they have different names.
    assert got["entropy_rank", None, "top-4"].value < 4.001 < rank
    grid, density = got["density", None, None].array
    assert trapezoid(density, grid) == pytest.approx(1.0)


def test_the_next_measurement_starts_from_this_one(problem, monkeypatch):
    model, loss, _, dense, _ = problem
    view = FakeView(model, loss)
    first = measure(view, quantities=("spectrum",), tolerance=0.01, max_products=300, warm_start=True)
    assert view.memory["start"].dtype == torch.float16
    assert view.memory["start"].numel() == len(dense)
    calls = []
    monkeypatch.setattr("lmtrace.signals.curvature.problem.warm_start", lambda v, g: calls.append(v) or v[0])
    second = measure(view, quantities=("spectrum",), tolerance=0.01, max_products=300, warm_start=True)
    assert len(calls) == 1
    key = ("lambda_max", None, None)
    assert second[key].value == pytest.approx(first[key].value, rel=1e-3)


@pytest.mark.parametrize("broken", ["nan", "oom"])
def test_what_fails_is_missing_with_its_reason(broken):
    model, loss = tiny_gpt_problem()

    def bad() -> Tensor:
        if broken == "oom":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return loss() * float("nan")

    got = measure(FakeView(model, bad, bad), quantities=EVERYTHING)
    assert {metric for metric, _, _ in got} == {f.metric for f in Curvature.fields}
    for record in got.values():
        assert record.value is None
        assert ("loss is nan" if broken == "nan" else "out of memory") in record.missing


def test_missing_optimizer_and_training_batch_are_named(problem):
    model, loss, *_ = problem
    got = measure(FakeView(model, loss), quantities=("spectrum", "preconditioned", "landscape"), max_products=300)
    assert "no optimizer" in got["edge", None, None].missing
    assert got["lambda_max", None, None].value > 0
    assert "no optimizer" in got["preconditioned_edge", None, None].missing
    assert "no training batch" in got["trace_ratio", None, None].missing
    adam = FakeView(model, loss, given=torch.optim.AdamW(model.parameters()))
    assert "no second moments" in measure(adam, quantities=("preconditioned",))[
        "preconditioned_lambda_max", None, None
    ].missing  # fmt: skip
    first, *rest = model.parameters()
    two_rates = torch.optim.SGD([{"params": [first], "lr": 1.0}, {"params": rest, "lr": 2.0}])
    got = measure(FakeView(model, loss, given=two_rates), quantities=("spectrum",), max_products=300)
    assert got["edge", None, None].missing == "the optimizer's groups differ in lr"


def test_a_second_derivative_that_is_silently_wrong_is_found_out(caplog):
    class Detached(torch.autograd.Function):
        """x^3 with half its second derivative gone: still symmetric, but wrong."""

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, grad):
            (x,) = ctx.saved_tensors
            return 3 * x * x.detach() * grad

    model = nn.ParameterDict({"w": nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))})
    view = FakeView(model, lambda: Detached.apply(model["w"]).sum())
    with caplog.at_level(logging.INFO):
        got = measure(view, quantities=("spectrum", "trace"))
    assert got["double_backward", None, None].value == 0.0
    assert got["lambda_max", None, None].value == pytest.approx(18.0, rel=1e-4)
    assert got["trace", None, None].value == pytest.approx(36.0, rel=1e-4)
    assert "disagrees with central differences" in caplog.text
    assert float(view.memory["double_backward"]) == 0.0
    again = measure(view, quantities=("spectrum",))
    assert again["double_backward", None, None].value == 0.0


def test_wrong_parameters_are_named():
    with pytest.raises(ConfigError, match=r"quantities may be spectrum, .* got \['sharpness'\]"):
        Curvature(quantities=("sharpness",))
    with pytest.raises(ConfigError, match="num_probes must be at least 1"):
        Curvature(num_probes=0)
    with pytest.raises(ConfigError, match="tolerance must be between"):
        Curvature(tolerance=0.0)


@pytest.mark.parametrize("style", PANEL_STYLES)
def test_every_quantity_exists_on_every_family(style, panel, tokenizer):
    model = tiny(style, tokenizer, "2x32").eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.randint(4, len(tokenizer), (4, 7), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    signal = Curvature(
        quantities=EVERYTHING, sequences=3, num_probes=2, tolerance=0.3, density_probes=1, density_steps=5
    )
    instrument = Instrument(model, panel, [signal], optimizer, on_error="raise")
    instrument.train_batches[:] = [{"input_ids": ids, "labels": ids}]
    records = [r for r in instrument.measure(0) if r.signal == "curvature"]
    missing = {r.metric: r.missing for r in records if r.missing}
    assert set(missing) <= {"trace_ratio", "decay", "lambda_min", "edge"}, missing
    assert "preconditioned" in missing["edge"]  # the edge of SGD, which Adam's is not
    sites = {r.site for r in records if r.metric == "component_trace"}
    assert {"embedding", "mlp", "norm", "attention.o"} <= sites
    assert "other" not in sites
    blocks = {r.site for r in records if r.metric == "block_trace"}
    expected = {"encoder.block.0", "decoder.block.1"} if style == "t5" else {"block.0", "block.1"}
    assert expected <= blocks


def test_a_plain_module_inside_a_run(panel, tokenizer):
    model = PlainModel(len(tokenizer))
    instrument = Instrument(
        model, panel, [Curvature(sequences=4, num_probes=2, tolerance=0.3, warm_start=True)], on_error="raise"
    )
    records = [r for r in instrument.measure(0) if r.signal == "curvature"]
    assert {r.site for r in records if r.metric == "component_trace"} == {
        "embedding", "attention.q", "attention.k", "attention.v", "attention.o", "mlp", "norm",
    }  # fmt: skip
    assert next(r for r in records if r.metric == "trace").value is not None
    assert "edge" in {r.metric for r in records if r.missing}
    assert instrument.memories[0]["start"].numel() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_through_a_float32_copy(dtype, panel, tokenizer):
    model = tiny("llama", tokenizer).to(dtype).eval()
    ids = torch.randint(4, len(tokenizer), (4, 7), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, eps=1e-4)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    twin = copy.deepcopy(model).float()
    weights = [p.clone() for p in model.parameters()]
    wide = torch.optim.AdamW(twin.parameters(), lr=1e-4, eps=1e-4)
    state = optimizer.state_dict()
    wide.load_state_dict(state)
    found = []
    for one, optim in ((model, optimizer), (twin, wide)):
        signal = Curvature(quantities=EVERYTHING, sequences=3, num_probes=2, density_probes=1, density_steps=5)
        instrument = Instrument(one, panel, [signal], optim, on_error="raise")
        instrument.train_batches[:] = [{"input_ids": ids, "labels": ids}]
        records = [r for r in instrument.measure(0) if r.signal == "curvature" and r.array is None]
        found.append({(r.metric, r.site, r.split): r.value for r in records if not r.missing})
    half, full = found
    assert half.keys() == full.keys()
    assert ("preconditioned_lambda_max", None, None) in half
    for key, value in full.items():
        assert half[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    assert all(torch.equal(a, b) and b.dtype == dtype for a, b in zip(weights, model.parameters()))


def test_a_loss_of_other_parameters_is_refused():
    other = nn.Parameter(torch.ones(3))
    with pytest.raises(ModelError, match="does not depend on any of the parameters"):
        HessianOperator(lambda: (other**2).sum(), [nn.Parameter(torch.ones(3))])


@pytest.mark.parametrize("style", ["gpt2", "bert", "t5"])
def test_micro_batches_give_the_numbers_of_the_whole_batch(style, panel, tokenizer):
    """Sequences of unequal length, so that unweighted means over micro-batches would be wrong."""
    model = tiny(style, tokenizer).double()
    batch = {
        "input_ids": torch.randint(4, len(tokenizer), (7, 9), generator=torch.Generator().manual_seed(0)),
        "attention_mask": torch.ones(7, 9, dtype=torch.int64),
    }
    batch["labels"] = batch["input_ids"].clone()
    for row, end in enumerate((9, 3, 5, 2, 9, 4, 7)):
        batch["labels"][row, end:] = -100
    found = []
    for max_logits in (2**25, 3 * len(tokenizer) * 12):
        options = {"quantities": ("spectrum", "trace", "alignment", "landscape"), "num_probes": 3, "tolerance": 1e-4}
        signal = Curvature(sequences=7, max_logits=max_logits, **options)
        instrument = Instrument(model, panel, [signal], torch.optim.SGD(model.parameters(), lr=0.1), on_error="raise")
        instrument.train_batches[:] = [batch]
        records = instrument.measure(0)
        found.append(
            {r.metric: r.value for r in records if r.signal == "curvature" and r.array is None and not r.missing}
        )
    whole, parts = found
    assert whole.pop("micro_batches") == 1
    assert parts.pop("micro_batches") > 1
    assert parts.keys() == whole.keys()
    for metric, value in whole.items():
        # The library's own loss is taken in float32, whatever the model's precision.
        assert parts[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), metric


def test_fewer_lanczos_vectors_give_the_same_spectrum(panel, tokenizer):
    """Restarts cost products, not numbers; `max_basis` bounds what is held."""
    model, found = tiny("gpt2", tokenizer).double(), []
    size = sum(p.numel() for p in model.parameters())
    for vectors in (48, 14):
        signal = Curvature(
            quantities=("spectrum",), sequences=4, tolerance=1e-4, max_products=300, max_basis=vectors * size
        )
        view = Instrument(model, panel, [signal], on_error="raise")
        found.append({r.metric: r.value for r in view.measure(0) if r.metric.startswith("lambda")})
    assert found[1] == pytest.approx(found[0], rel=1e-5)
    with pytest.raises(ConfigError, match="max_basis must be at least 1"):
        Curvature(max_basis=0)


MEMORY = """
import sys, torch
from lmtrace.jobs.memory import PeakMemory
from lmtrace.numerics.hessian_operator import HessianOperator
torch.manual_seed(0)
table = torch.nn.Parameter(torch.randn(20_000, 16))
ids = torch.randint(20_000, (16, 32))

def loss(rows):
    return lambda: torch.nn.functional.cross_entropy((table[ids[rows]] @ table.T).flatten(0, 1), ids[rows].flatten())

size = int(sys.argv[1])
parts = [(size / 16, loss(slice(at, at + size))) for at in range(0, 16, size)]
with PeakMemory(torch.device("cpu")) as before:
    pass
with PeakMemory(torch.device("cpu")) as during:
    operator = HessianOperator(parts, [table])
    product = operator(torch.ones(operator.size) / 100)
print(during.peak - before.peak, float(product.norm()))
"""


@pytest.mark.slow
def test_micro_batches_bound_the_memory():
    told = {}
    for size in (16, 2):
        done = subprocess.run([sys.executable, "-c", MEMORY, str(size)], capture_output=True, text=True, check=True)
        told[size] = [float(word) for word in done.stdout.split()]
    assert told[2][1] == pytest.approx(told[16][1], rel=1e-4)
    assert told[2][0] < 0.5 * told[16][0]
