"""Clocked: a pass whose parts are timed as it runs, so that all figures of a round come from the same passes."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from atfr.errors import InputError

Point = tuple[nn.Module, bool]
"""A module, and whether the point lies before it (or behind it)."""


class Clocked:
    """A variant to time (`atfr.measure.in_turns`) that notes when each pass begins, comes to points, and ends.

    Args:
        run: the pass.
        parts: names of what lies between its points: one more than there are points. A name may come again.
        device: where it runs; on a CUDA device events are recorded, which wait for nothing.
    """

    def __init__(self, run: Callable[[], object], parts: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.run = run
        self.parts = tuple(parts)
        self.device = torch.device(device)
        self._marks: list[Any] = []  # seconds, or events
        self._passes: list[list[Any]] = []

    def __call__(self) -> None:
        """Run once."""
        self._marks = []
        self.mark()
        self.run()
        self.mark()
        if len(self._marks) != len(self.parts) + 1:
            raise InputError(f"a pass has {len(self._marks) - 1} parts, expected {', '.join(self.parts)}")
        self._passes.append(self._marks)

    def mark(self) -> None:
        """Note that the pass has come to a point."""
        if self.device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        self._marks.append(event)

    @contextmanager
    def at(self, *points: Point) -> Iterator[None]:
        """Mark where the pass comes to modules of a network while the context is open."""
        with ExitStack() as hooks:
            for module, before in points:
                register: Any = module.register_forward_pre_hook if before else module.register_forward_hook
                hooks.enter_context(register(lambda *_: self.mark()))
            yield

    def seconds(self, passes: int) -> dict[str, tuple[float, ...]]:
        """Return what each part took in the last passes; parts of one name together."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        found = {name: [0.0] * passes for name in self.parts}
        for number, marks in enumerate(self._passes[-passes:]):
            for name, first, then in zip(self.parts, marks, marks[1:], strict=False):
                found[name][number] += then - first if isinstance(first, float) else first.elapsed_time(then) / 1000
        return {name: tuple(seconds) for name, seconds in found.items()}
