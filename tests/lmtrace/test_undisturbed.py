"""Nothing is disturbed: training with every signal is bit for bit training without."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
import torch

import lmtrace
from lmtrace.errors import SignalError
from lmtrace.live.tracer import Tracer
from lmtrace.observe.interface import Needs, Signal
from lmtrace.observe.isolation import generator_fingerprint, undisturbed
from lmtrace.records.schema import Field
from lmtrace_helpers import PlainModel, tiny


def batches(tokenizer, steps, objective):
    """Yield the same batches each time, drawn from the global generator as a loader would."""
    for _ in range(steps):
        ids = torch.randint(5, len(tokenizer), (4, 9))
        labels = ids.clone()
        if objective == "masked":
            labels[torch.rand(ids.shape) > 0.3] = -100
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def fingerprint(model, optimizer):
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = [
        value.clone() if isinstance(value, torch.Tensor) else value
        for entry in optimizer.state_dict()["state"].values()
        for value in entry.values()
    ]
    flags = [m.training for m in model.modules()]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    return weights, state, flags, hooks, trained, buffers, generator_fingerprint()


def same(a, b):
    for x, y in zip(a, b, strict=True):
        if isinstance(x, dict):
            assert x.keys() == y.keys()
            for key in x:
                assert torch.equal(x[key], y[key]), key
        else:
            assert len(x) == len(y)
            for u, v in zip(x, y, strict=True):
                assert torch.equal(u, v) if isinstance(u, torch.Tensor) else u == v


def with_lora(model):
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=4, lora_dropout=0.1, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft reads an attribute that transformers has renamed
        return get_peft_model(model, settings)


def train(
    style, tokenizer, panel, tracer_settings, *,
    steps=6, accumulate=1, autocast=None, checkpointing=False, compiled=None, lora=False, size="tiny",
):  # fmt: skip
    torch.manual_seed(7)
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    model = PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer, size)
    model = with_lora(model) if lora else model
    model.train()
    if checkpointing:
        (getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable)()
    if compiled:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        model = torch.compile(model, **compiled)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    objective = "masked" if style == "bert" else "causal"
    losses = []

    def loop(tracer):
        for i, batch in enumerate(batches(tokenizer, steps * accumulate, objective)):
            with torch.autocast("cpu", dtype=autocast or torch.bfloat16, enabled=autocast is not None):
                if style == "plain":
                    logits = model(batch["input_ids"])
                    loss = torch.nn.functional.cross_entropy(
                        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten()
                    )
                else:
                    loss = model(**batch).loss
            (loss / accumulate).backward()
            if (i + 1) % accumulate == 0:
                optimizer.step()
                # Gradients are left in place while measuring: a tracer must not lose them.
                if tracer is not None:
                    before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
                    tracer.step(loss=loss)
                    for p, grad in zip(model.parameters(), before, strict=True):
                        assert (p.grad is None) == (grad is None)
                        assert grad is None or torch.equal(p.grad, grad)
                optimizer.zero_grad()
            losses.append(float(loss.detach()))

    if tracer_settings is None:
        loop(None)
    else:
        with Tracer(model, panel, optimizer=optimizer, **tracer_settings) as tracer:
            loop(tracer)
    graphs = dict(torch._dynamo.utils.counters["stats"]) if compiled else {}
    return fingerprint(model, optimizer), losses, graphs


CASES = {
    "gpt2 with dropout": {"style": "gpt2"},
    "llama": {"style": "llama"},
    "bert": {"style": "bert"},
    "t5": {"style": "t5"},
    "mixtral": {"style": "mixtral"},
    "plain module": {"style": "plain"},
    "gradient accumulation": {"style": "gpt2", "accumulate": 3},
    "bf16 autocast": {"style": "gpt2", "autocast": torch.bfloat16},
    "fp16 autocast": {"style": "gpt2", "autocast": torch.float16},
    "LoRA": {"style": "gpt2", "lora": True},
    "compiled": {"style": "gpt2", "compiled": {"backend": "aot_eager"}},
    "compiled plain module": {"style": "plain", "compiled": {"backend": "aot_eager", "fullgraph": True}},
    "gradient checkpointing": {"style": "gpt2", "checkpointing": True},
}


CASES |= {
    "inductor": {"style": "llama", "size": "2x32", "steps": 3, "compiled": {"backend": "inductor"}},
}


@pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow if c == "inductor" else ()) for c in CASES])
def test_training_is_bit_identical(case, tokenizer, panel, tmp_path):
    settings = CASES[case]
    plain = train(tokenizer=tokenizer, panel=panel, tracer_settings=None, **settings)
    traced = train(
        tokenizer=tokenizer,
        panel=panel,
        tracer_settings={"run": tmp_path / "run", "signals": "full", "every": 2},
        **settings,
    )
    same(plain[0], traced[0])
    assert plain[1:] == traced[1:]


class Rude(Signal):
    """Does everything that a signal must not do."""

    name, cost, source = "rude", "none", "test"
    fields = (Field(metric="x", title="x"),)

    def needs(self, panel):
        return Needs(model=True)

    def measure(self, view):
        torch.rand(3)
        random.random()
        np.random.rand()  # noqa: NPY002
        view.model.train()
        for p in view.model.parameters():
            p.grad = torch.zeros_like(p)
            p.requires_grad_(False)
        raise RuntimeError("and it raises")
        yield


def test_a_signal_that_raises_and_draws_changes_nothing(tokenizer, panel, tmp_path):
    plain = train("gpt2", tokenizer, panel, None)
    traced = train("gpt2", tokenizer, panel, {"run": tmp_path / "run", "signals": [Rude()], "every": 1})
    same(plain[0], traced[0])
    assert plain[1] == traced[1]


def test_isolation_restores_after_an_exception(gpt2):
    gpt2.train()
    gpt2.transformer.h[0].eval()
    flags = [m.training for m in gpt2.modules()]
    for p in gpt2.parameters():
        p.grad = torch.ones_like(p)
    before = generator_fingerprint()
    with pytest.raises(KeyError), undisturbed(gpt2):
        assert not any(m.training for m in gpt2.modules())
        assert all(p.grad is None for p in gpt2.parameters())
        assert not torch.is_grad_enabled()
        torch.rand(1)
        gpt2.set_attn_implementation("eager")
        raise KeyError
    assert [m.training for m in gpt2.modules()] == flags
    assert all(bool((p.grad == 1).all()) for p in gpt2.parameters())
    assert generator_fingerprint() == before
    assert gpt2.config._attn_implementation == "sdpa"
    assert torch.is_grad_enabled()


class Counts(torch.nn.Module):
    """A layer with a buffer that every call changes, as batch norm has."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(3))
        self.weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x):
        self.calls += 1
        return x * self.weight


def changes(model):
    """Each thing that is saved: (what it is, how it looks, how a measurement could change it)."""
    counts = model.counts
    return {
        "training flags": (lambda: [m.training for m in model.modules()], lambda: model.train()),
        "torch generator": (lambda: torch.get_rng_state().tolist(), lambda: torch.rand(3)),
        "numpy generator": (lambda: str(np.random.get_state()), lambda: np.random.rand()),  # noqa: NPY002
        "python generator": (random.getstate, random.random),
        "gradients": (
            lambda: [None if p.grad is None else (id(p.grad), p.grad.tolist()) for p in model.parameters()],
            lambda: [setattr(p, "grad", torch.zeros_like(p)) for p in model.parameters()],
        ),
        "requires_grad": (
            lambda: [p.requires_grad for p in model.parameters()],
            lambda: [p.requires_grad_(not p.requires_grad) for p in model.parameters()],
        ),
        "gradient mode": (torch.is_grad_enabled, lambda: torch.set_grad_enabled(True)),
        "autocast": (lambda: torch.is_autocast_enabled("cpu"), lambda: torch.set_autocast_enabled("cpu", True)),
        "attention implementation": (
            lambda: (model.config._attn_implementation, model.transformer.h[0].attn.config._attn_implementation),
            lambda: model.set_attn_implementation("eager"),
        ),
        "cache flag": (lambda: model.config.use_cache, lambda: setattr(model.config, "use_cache", False)),
        "buffers": (lambda: counts.calls.tolist(), lambda: counts(torch.ones(3))),
    }


ITEMS = (
    "training flags", "torch generator", "numpy generator", "python generator", "gradients", "requires_grad", "gradient mode",
    "autocast", "attention implementation", "cache flag", "buffers",
)  # fmt: skip


@pytest.mark.parametrize("item", ITEMS)
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_each_thing_on_the_list_is_put_back(item, raises, autocast, gpt2):
    gpt2.counts = Counts()
    gpt2.eval()
    gpt2.transformer.h[1].train()
    for p in list(gpt2.parameters())[::2]:
        p.grad = torch.ones_like(p)
    look, change = changes(gpt2)[item]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        before, other = look(), None
        try:
            with undisturbed(gpt2):
                assert not torch.is_autocast_enabled("cpu")
                assert not torch.is_grad_enabled()
                inside = look()
                change()
                other = look()
                if raises:
                    raise KeyError
        except KeyError:
            pass
        assert other != inside, "the change has to be one"
        assert look() == before
    gpt2.config.use_cache = True


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_a_hook_that_is_left_behind_is_removed_and_said(kind, gpt2):
    mine = gpt2.transformer.h[0].register_forward_hook(lambda *a: None)
    with pytest.raises(SignalError, match=r"a hook was left on GPT2Block"), undisturbed(gpt2):
        getattr(gpt2.transformer.h[0], kind)(lambda *a: None)
    block = gpt2.transformer.h[0]
    assert list(block._forward_hooks) == [mine.id], "the user's own hook stays"
    assert not block._forward_pre_hooks
    assert not block._backward_hooks


@pytest.mark.parametrize(
    ("style", "flag"),
    [("gpt2", "output_hidden_states"), ("bert", "output_hidden_states"), ("mixtral", "output_router_logits")],
)
def test_a_configuration_that_asks_for_more_outputs_is_measured_and_left_alone(style, flag, panel, tokenizer, tmp_path):
    model = tiny(style, tokenizer)
    setattr(model.config, flag, True)
    with lmtrace.analyze(model, panel, run=tmp_path / "first", signals="output,lens,attention") as run:
        assert np.isfinite(run.series(signal="output", metric="loss", label=None).values).all()
    assert not any(module._forward_hooks for module in model.modules())
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():  # transformers puts its hooks on now, and they stay
        before = model.train()(input_ids=ids)
        lmtrace.analyze(model, panel, run=tmp_path / "second", signals="output,lens,attention").close()
        after = model(input_ids=ids)
    assert set(before) == set(after)
    assert any(module._forward_hooks for module in model.modules())


def test_a_weight_or_an_optimizer_that_was_changed_is_said(gpt2):
    optimizer = torch.optim.AdamW(gpt2.parameters())
    for p in gpt2.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    with (
        pytest.raises(SignalError, match="the weight transformer.wte.weight was changed"),
        undisturbed(gpt2, optimizer),
    ):
        gpt2.transformer.wte.weight.add_(1.0)
    with pytest.raises(SignalError, match="the optimizer's state was changed"), undisturbed(gpt2, optimizer):
        next(iter(optimizer.state.values()))["exp_avg"].mul_(2.0)
