"""A view over given log-probabilities, for signals that read nothing else."""

from types import SimpleNamespace

import torch

from lmtrace.numerics.prediction import Cells, Entries, Laws


class FakeView:
    """Calls the signal's `reduce` in two uneven batches, as a pass would, and joins the parts."""

    step = 0

    def __init__(self, panel, signal, log_probs):
        self.panel, self.signal, self.cache = panel, signal, {}
        self.log_probs, self.needs = log_probs, signal.needs(panel)

    def labels(self, layer):
        assert layer in self.needs.labels
        return self.panel.labels(layer)

    @property
    def truth(self):
        assert self.needs.truth
        return self.panel.truth

    def reduced(self):
        n = len(self.panel.predictions)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(1))
        parts = [order[: n // 3], order[n // 3 :]]
        targets = torch.as_tensor(self.panel.predictions.target)
        joined = {}
        for index in parts:
            groups = self.panel.lexicon and torch.as_tensor(self.panel.lexicon.groups(self.log_probs.shape[1]))
            laws = Laws.of(self.log_probs[index], groups)
            log_probs = laws.log_probs
            batch = SimpleNamespace(
                panel=self.panel, index=index, log_probs=log_probs, laws=laws, targets=targets[index],
                entries=lambda rows, q=log_probs, i=index: Entries.of(q, Cells.of(rows.take(i.numpy()), q.shape[1], q.device)),
            )  # fmt: skip
            for key, value in self.signal.reduce(batch).items():
                joined.setdefault(key, value.new_zeros((n, *value.shape[1:])))[index] = value
        return joined
