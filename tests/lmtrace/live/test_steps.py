"""What a loop tells: copies, one number each, learning rates of the step that was made, one life of a tracer."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import lmtrace
from lmtrace.errors import ConfigError
from lmtrace.live.training_scalars import TrainingScalars
from lmtrace.live.weights import same_weights, sample_weights
from lmtrace_helpers import PlainModel


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    return PlainModel(len(tokenizer), width=16)


def tracer_of(model, panel, folder, **settings):
    return lmtrace.Tracer(model, panel, signals="weights", run=folder, **{"every": 100, **settings})


def train_step(model, optimizers, ids):
    logits = model(ids)[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return loss


@pytest.fixture
def ids(tokenizer):
    return torch.randint(4, len(tokenizer), (4, 9), generator=torch.Generator().manual_seed(2))


def test_a_buffer_that_is_filled_again_keeps_its_old_numbers():
    told, buffer = TrainingScalars(), torch.zeros(())
    for step in range(1, 5):
        told.part(buffer.fill_(2.0 * step), tokens=torch.tensor(step))
        told.part(buffer.fill_(4.0 * step), tokens=3)
        told.step(step)
        told.add(step, grad_norm=buffer.fill_(7.0 + step), nothing=None)
        buffer.fill_(-1.0)
    found = told.drain()
    assert found["loss"] == ([1, 2, 3, 4], [3.0, 6.0, 9.0, 12.0])
    assert found["tokens"][1] == [4.0, 5.0, 6.0, 7.0]
    assert found["grad_norm"][1] == [8.0, 9.0, 10.0, 11.0]
    assert "nothing" not in found


@pytest.mark.parametrize(
    ("value", "said"), [(torch.ones(3), r"shape \(3,\)"), ("high", "is a str"), ([1, 2], "is a list")]
)
def test_what_is_not_one_number_is_refused_and_nothing_is_lost(model, panel, tmp_path, value, said):
    with tracer_of(model, panel, tmp_path / "run") as tracer:
        tracer.step(loss=3.5)
        with pytest.raises(ConfigError, match=said):
            tracer.step(loss=2.5, accuracy_of_batch=value)
        tracer.step(loss=1.5)
    assert lmtrace.open_run(tmp_path / "run").scalars("loss")[1][0] == 3.5


def test_steps_outside_of_with_are_told(model, panel, tmp_path):
    tracer = tracer_of(model, panel, tmp_path / "run")
    with pytest.raises(ConfigError, match="before the run was opened"):
        tracer.step(loss=1.0)
    assert not (tmp_path / "run").exists()
    with tracer:
        tracer.step(loss=1.0)
    with pytest.warns(UserWarning, match="is closed"):
        tracer.step(loss=2.0)
    with pytest.raises(ConfigError, match="used once"), tracer:
        pass
    assert lmtrace.open_run(tmp_path / "run").scalars("loss")[1].tolist() == [1.0]


def test_learning_rates_are_those_the_steps_were_made_with(model, panel, tmp_path, ids):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.013 * step)
    expected = []
    with tracer_of(model, panel, tmp_path / "run", optimizer=optimizer) as tracer:
        for _ in range(5):
            expected.append(optimizer.param_groups[0]["lr"])
            loss = train_step(model, [optimizer], ids)
            schedule.step()
            tracer.step(loss=loss)
    assert not optimizer._optimizer_step_pre_hooks
    found = lmtrace.open_run(tmp_path / "run").scalars("learning_rate")[1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert expected[0] == 0.0


def test_several_optimizers_and_groups(model, panel, tmp_path, ids):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    first = torch.optim.SGD(matrices, lr=0.021)
    second = torch.optim.AdamW([{"params": rest[:3], "lr": 0.021}, {"params": rest[3:], "lr": 0.004}])
    with tracer_of(model, panel, tmp_path / "run", optimizer=[first, second]) as tracer:
        for _ in range(3):
            tracer.step(loss=train_step(model, [first, second], ids))
    run = lmtrace.open_run(tmp_path / "run")
    assert run.scalars("learning_rate")[1].tolist() == [0.021] * 3
    assert run.scalars("learning_rate.2")[1].tolist() == [0.004] * 3
    assert "learning_rate.1" not in run.scalar_metrics
    assert run.status == "finished"


def test_an_optimizer_without_a_learning_rate(model, panel, tmp_path, ids):
    from transformers.optimization import Adafactor

    optimizer = Adafactor(model.parameters())
    with tracer_of(model, panel, tmp_path / "run", optimizer=optimizer, every=2) as tracer:
        for _ in range(4):
            tracer.step(loss=train_step(model, [optimizer], ids))
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 2, 4]
    assert "learning_rate" not in run.scalar_metrics
    assert len(run.scalars("loss")[1]) == 4


def test_what_is_no_optimizer_is_refused_at_once(model, panel, tmp_path):
    with pytest.raises(ConfigError, match="holds a dict"):
        tracer_of(model, panel, tmp_path / "run", optimizer=[{"lr": 1}])
    assert not (tmp_path / "run").exists()


def test_a_model_that_stands_still_is_told_once(model, panel, tmp_path, ids):
    import copy

    trained = copy.deepcopy(model)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    with tracer_of(model, panel, tmp_path / "copy", every=2, optimizer=optimizer) as tracer:
        for _ in range(6):
            tracer.step(loss=train_step(trained, [optimizer], ids))
    [event] = lmtrace.open_run(tmp_path / "copy").events("unchanged weights")
    assert "from step 0 to step 2" in event.text
    with tracer_of(trained, panel, tmp_path / "same", every=2, optimizer=optimizer) as tracer:
        for _ in range(6):
            tracer.step(loss=train_step(trained, [optimizer], ids))
    assert lmtrace.open_run(tmp_path / "same").events("unchanged weights") == ()


def test_samples_of_weights_see_one_number_in_every_sixteenth(model):
    before = sample_weights(model)
    assert same_weights(before, sample_weights(model))
    with torch.no_grad():
        model.lm_head.weight[0, 0] = torch.nextafter(model.lm_head.weight[0, 0], torch.tensor(9.0))
    assert not same_weights(before, sample_weights(model))
    assert sample_weights(model.requires_grad_(False)) is None


def test_an_interrupt_is_not_a_crash_and_its_folder_can_be_taken_back(model, panel, tmp_path):
    with pytest.raises(KeyboardInterrupt), tracer_of(model, panel, tmp_path / "run") as tracer:
        tracer.step(loss=1.0)
        raise KeyboardInterrupt
    assert lmtrace.open_run(tmp_path / "run").status == "interrupted"
    abandoned = tracer_of(model, panel, tmp_path / "again")
    abandoned.__enter__()
    abandoned.step(loss=1.0)  # a notebook cell that was stopped here: nobody closes it
    with tracer_of(model, panel, tmp_path / "again", overwrite=True) as tracer:
        tracer.step(loss=2.0)
    run = lmtrace.open_run(tmp_path / "again")
    assert (run.status, run.scalars("loss")[1].tolist()) == ("finished", [2.0])
    abandoned.__exit__(None, None, None)
    assert lmtrace.open_run(tmp_path / "again").status == "finished"


def test_a_failed_start_leaves_no_folder(panel, tmp_path):
    class Broken(PlainModel):
        def forward(self, ids):
            raise ValueError("no")

    with (
        pytest.raises(Exception, match="no"),
        lmtrace.Tracer(Broken(50, width=16), panel, signals="output", run=tmp_path / "a" / "run", on_error="raise"),
    ):
        pass
    assert not (tmp_path / "a" / "run").exists()


def test_the_last_step_is_measured_inside_the_loop_where_it_is_known(model, panel, tmp_path, ids):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    tracer = tracer_of(model, panel, tmp_path / "run", optimizer=optimizer)
    tracer.last_step = 3
    with tracer:
        for _ in range(3):
            tracer.step(loss=train_step(model, [optimizer], ids))
        norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm()
        with torch.no_grad():
            for p in model.parameters():
                p.zero_()
    run = lmtrace.open_run(tmp_path / "run")
    assert run.steps.tolist() == [0, 3]
    found = [r.value for r in run.records() if r.step == 3 and r.metric == "norm" and r.value is not None]
    assert max(found) <= float(norm) * (1 + 1e-6)
    assert max(found) > 0
