"""Lightning: the loss that is recorded, bit-identity, accumulation, stopping, resume, batches of any kind."""

from __future__ import annotations

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader

import lmtrace
from lmtrace.errors import ConfigError
from lmtrace.integrations.lightning import language_model
from lmtrace.jobs.data import Collator, training_rows
from lmtrace.observe.isolation import generator_fingerprint
from lmtrace.signals.curvature import Curvature
from lmtrace_helpers import PlainModel, tiny

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of workers, of missing loaders and of its own code


class Language(LightningModule):
    """A language model in Lightning, as people write them; keeps the losses of its steps."""

    def __init__(self, model, as_tuple=False):
        super().__init__()
        self.model, self.as_tuple, self.losses, self.order = model, as_tuple, [], []

    def training_step(self, batch, index):
        self.order.append(int(batch["input_ids"].sum()))
        if self.as_tuple:
            loss = self.model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"], return_dict=False)[0]
        elif isinstance(self.model, PlainModel):
            logits = self.model(batch["input_ids"])
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten())
        else:
            loss = self.model(**batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def fit(style, tokenizer, sentences, folder, callbacks, *, steps=6, size=8, resume=None, as_tuple=False, **settings):
    lightning.seed_everything(3, verbose=False)
    module = Language(PlainModel(len(tokenizer)) if style == "plain" else tiny(style, tokenizer, "2x32"), as_tuple)
    module.train()
    rows = training_rows(sentences, tokenizer, "causal", 32)
    loader = DataLoader(rows, size, shuffle=True, collate_fn=Collator(tokenizer, "causal"))  # pyright: ignore
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", devices=1, logger=False, default_root_dir=folder,
        enable_progress_bar=False, enable_model_summary=False, callbacks=callbacks,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), **settings,
    )  # fmt: skip
    trainer.fit(module, loader, ckpt_path=resume)
    return module, trainer


def fingerprint(module, trainer):
    state = trainer.optimizers[0].state_dict()["state"]
    return {
        "weights": [v.clone() for v in module.state_dict().values()],
        "optimizer": [torch.as_tensor(v).clone() for entry in state.values() for v in entry.values()],
        "flags": [m.training for m in module.modules()],
        "trained": [p.requires_grad for p in module.parameters()],
        "hooks": [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules()],
        "losses": module.losses,
        "order": module.order,
        "generators": generator_fingerprint(),
    }


def same(a, b):
    assert a.keys() == b.keys()
    for key, values in a.items():
        assert len(values) == len(b[key])
        for x, y in zip(values, b[key], strict=True):
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, key


MODES = {
    "dropout": ("gpt2", {}),
    "accumulation": ("llama", {"accumulate_grad_batches": 3}),
    "bf16": ("gpt2", {"precision": "bf16-mixed"}),
    "clipping": ("plain", {"gradient_clip_val": 0.5}),
}


@pytest.mark.parametrize("mode", MODES)
def test_training_is_bit_identical(mode, tokenizer, sentences, panel, tmp_path):
    style, settings = MODES[mode]
    plain = fingerprint(*fit(style, tokenizer, sentences, tmp_path, [], steps=4, **settings))
    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=2, signals="full")
    traced = fingerprint(*fit(style, tokenizer, sentences, tmp_path, [callback], steps=4, **settings))
    same(plain, traced)
    assert lmtrace.open_run(tmp_path / "run").steps.tolist() == [0, 2, 4]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_recorded_loss_is_the_mean_over_the_micro_batches(accumulate, tokenizer, sentences, panel, tmp_path):
    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=100, signals="pairs")
    module, _ = fit("gpt2", tokenizer, sentences, tmp_path, [callback], steps=5, accumulate_grad_batches=accumulate)
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 5]
    expected = np.array(module.losses).reshape(5, accumulate).mean(1)
    np.testing.assert_allclose(run.scalars("loss")[1], expected, rtol=1e-6)
    steps, tokens = run.scalars("tokens")
    assert list(steps) == [1, 2, 3, 4, 5]
    assert min(tokens) > 8 * accumulate * 3
    assert list(run.scalars("learning_rate")[1]) == [1e-2] * 5


def test_a_step_that_an_epoch_cuts_short_is_a_step(tokenizer, sentences, panel, tmp_path):
    """200 sentences in batches of 64 are 4; accumulated by 3 that is a step of 3 and a step of 1 in every epoch."""
    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=100, signals="pairs")
    module, _ = fit(
        "gpt2", tokenizer, sentences, tmp_path, [callback], steps=-1, size=64, max_epochs=2, accumulate_grad_batches=3
    )
    losses = np.array(module.losses).reshape(2, 4)
    expected = np.stack([losses[:, :3].mean(1), losses[:, 3]], axis=1).flatten()
    np.testing.assert_allclose(lmtrace.open_run(tmp_path / "run").scalars("loss")[1], expected, rtol=1e-6)


def test_a_stop_rule_stops_lightning(tokenizer, sentences, panel, tmp_path):
    class Rule:
        def update(self, step, records):
            return "enough" if step >= 2 else None

    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=1, signals="pairs", stop=Rule())
    _, trainer = fit("gpt2", tokenizer, sentences, tmp_path, [callback])
    assert trainer.global_step == 2
    assert lmtrace.open_run(tmp_path / "run").header.status == "stopped early"


class Breaks(Callback):
    def __init__(self, step, error):
        self.step, self.error = step, error

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise self.error


def test_an_error_in_training_is_a_crashed_run_and_stays_an_error(tokenizer, sentences, panel, tmp_path):
    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=1, signals="pairs")
    with pytest.raises(ZeroDivisionError):
        fit("gpt2", tokenizer, sentences, tmp_path, [callback, Breaks(2, ZeroDivisionError())])
    run = lmtrace.open_run(tmp_path / "run")
    assert run.header.status == "crashed"
    assert run.steps.tolist() == [0, 1, 2]


def test_resume_from_a_checkpoint_goes_on_with_the_run(tokenizer, sentences, panel, tmp_path):
    def callback(name):
        return lmtrace.LightningCallback(panel, run=tmp_path / name, every=1, signals="output,dimension,gradient")

    def keep():
        return ModelCheckpoint(tmp_path / "saved", every_n_train_steps=3, save_top_k=-1, filename="{step}")

    fit("llama", tokenizer, sentences, tmp_path / "w", [callback("whole")])
    with pytest.raises(ZeroDivisionError):
        fit("llama", tokenizer, sentences, tmp_path / "p", [callback("parts"), keep(), Breaks(4, ZeroDivisionError())])
    fit("llama", tokenizer, sentences, tmp_path / "p", [callback("parts")], resume=tmp_path / "saved" / "step=3.ckpt")
    a, b = lmtrace.open_run(tmp_path / "whole"), lmtrace.open_run(tmp_path / "parts")
    assert a.steps.tolist() == b.steps.tolist() == list(range(7))
    # The order of the batches after a resume is Lightning's affair; up to the checkpoint everything is equal.
    np.testing.assert_array_equal(a.scalars("loss")[1][:3], b.scalars("loss")[1][:3])
    assert b.scalars("loss")[0].tolist() == [1, 2, 3, 4, 5, 6]
    for key in a.keys():
        if key.signal != "cost":
            x, y = (r.series(signal=key.signal, metric=key.metric, label=key.label, split=key.split) for r in (a, b))
            np.testing.assert_array_equal(x.values[:4], y.values[:4], err_msg=str(key))


@pytest.mark.parametrize("as_tuple", [False, True])
def test_signals_see_the_training_batch(as_tuple, tokenizer, sentences, panel, tmp_path):
    """Dictionary or positional arguments, output object or tuple: the loss of the last batch is what the model had."""
    signal = Curvature(sequences=8, num_probes=2, quantities=("spectrum", "trace", "landscape"))
    callback = lmtrace.LightningCallback(panel, run=tmp_path / "run", every=[1], signals=[signal])
    module = fit("llama", tokenizer, sentences, tmp_path, [callback], steps=1, as_tuple=as_tuple)[0]
    series = lmtrace.open_run(tmp_path / "run").series(signal="curvature", metric="train_loss")
    assert series.steps.tolist() == [0, 1]
    assert series.missing == {(0, None): "no training batch has been seen yet"}
    # One AdamW step at 1e-2 has lowered the loss of its own batch.
    assert module.losses[0] - 1.5 < series.values[1, 0] < module.losses[0]


def test_the_language_model_is_found(tokenizer):
    class Bare(LightningModule):
        def __init__(self, **modules):
            super().__init__()
            for name, module in modules.items():
                setattr(self, name, module)

    class Whole(Bare):
        def forward(self, ids):
            return ids

    model, head = tiny("gpt2", tokenizer, "2x32"), nn.Linear(2, 2)
    assert language_model(Bare(net=model, dropout=nn.Dropout(0.1))) is model
    whole = Whole(blocks=nn.ModuleList([head]), head=nn.Linear(2, 2))
    assert language_model(whole) is whole
    assert language_model(Bare(net=model, teacher=head), "net") is model
    with pytest.raises(ConfigError, match="Bare has no forward and 2 modules .* Pass model= with one of: net, teacher"):
        language_model(Bare(net=model, teacher=head))
    with pytest.raises(ConfigError, match="Bare has no module at 'lm'"):
        language_model(Bare(net=model), "lm")
