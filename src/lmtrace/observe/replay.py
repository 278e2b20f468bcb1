"""What a model does after a block, whatever that is: the model runs, and the block's output is another.

Everything between the last block and the logits (norm, transform, projection, scale, bias, soft cap) is the model's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lmtrace.observe.sites import Site


@dataclass(eq=False)
class Replay:
    """The rest of a model after a block, as a function of rows [rows, d_model] of the residual stream.

    The rows are put in the place of the tokens of a batch. The other blocks give what they gave the first time, unless they
    run several times in a pass.

    Attributes
    ----------
    run
        Inputs -> logits [sequences, length, vocabulary].
    site
        The block.
    blocks
        All blocks of the model, which need not run again.
    inputs
        The batch: its tokens are of no account where what follows the block reads nothing else.
    """

    run: Callable[[dict[str, Tensor]], Tensor]
    site: Site
    blocks: Mapping[str, Site]
    inputs: dict[str, Tensor]
    _given: dict[int, Any] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        """Sequences and positions of the batch."""
        key = "decoder_input_ids" if self.site.stream == "decoder" else "input_ids"
        return tuple(self.inputs[key].shape)  # pyright: ignore[reportReturnType]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return [rows, vocabulary] logits of rows [rows, d_model] after the block."""
        size = self.shape[0] * self.shape[1]
        logits = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            full = torch.cat([part, part[-1:].expand(size - len(part), -1)])
            logits.append(self._batch(full.reshape(*self.shape, -1)).flatten(0, 1)[: len(part)])
        return torch.cat(logits)

    def _batch(self, hidden: Tensor) -> Tensor:
        if not self._given:
            self._listen()

        def replace(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            counts[0] += 1
            if counts[0] != self.site.call + 1:
                return None
            whole = self.site.pick(output)
            return self.site.put(output, self.site.layout.write(whole, hidden.to(whole.dtype)))

        counts = [0]
        with self._still():
            handle = self.site.module.register_forward_hook(replace)
            try:
                return self.run(self.inputs)
            finally:
                handle.remove()

    def _listen(self) -> None:
        """Run once, and keep what every block gives."""
        handles = []

        def keep(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._given[id(module)] = output

        try:
            for module in self._once():
                handles.append(module.register_forward_hook(keep))
            self.run(self.inputs)
        finally:
            for handle in handles:
                handle.remove()

    def _once(self) -> list[nn.Module]:
        """Return the blocks that run once in a pass and are a block as a whole."""
        sites = [site for site in self.blocks.values() if site.when == "output" and site.calls == 1]
        return list({id(site.module): site.module for site in sites}.values())

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Let the blocks give what they gave, without running."""
        before = []
        try:
            for module in self._once():
                before.append((module, vars(module).get("forward")))
                output = self._given[id(module)]
                vars(module)["forward"] = lambda *args, output=output, **kwargs: output
            yield
        finally:
            for module, own in before:
                if own is None:
                    del vars(module)["forward"]
                else:
                    vars(module)["forward"] = own
