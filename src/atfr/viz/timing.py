"""Time of a network and of the same without SGS, in turns, with the conditions written down."""

import platform
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from atfr.evaluate.forward import Forward, evaluating

ROUNDS, BUDGET_S = (3, 15), 10.0
"""At least and at most so many rounds; beyond the least only within the budget, in seconds."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds a clip of networks that took turns.

    Attributes:
        ms: of each round, by the network's name: "static" and "adaptive".
        conditions: what the times depend on, as plain JSON values.
    """

    ms: dict[str, tuple[float, ...]]
    conditions: dict[str, Any]

    def median_ms(self, name: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.ms[name])

    @property
    def speedup(self) -> float:
        """The static network's time over the adaptive one's, median of the rounds' own ratios."""
        return statistics.median(a / b for a, b in zip(self.ms["static"], self.ms["adaptive"], strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Turn the times into plain JSON values."""
        medians = {name: self.median_ms(name) for name in self.ms}
        return {
            "median_ms": medians,
            "speedup": self.speedup,
            "ms": {name: list(times) for name, times in self.ms.items()},
            "conditions": self.conditions,
        }


def in_turns(networks: Mapping[str, Forward], clips: Float[Tensor, "N C T H W"], budget_s: float = BUDGET_S) -> Timing:
    """Time networks on the same clips, in turns, after a round that is not measured.

    Between the least and the most rounds, none begins after `budget_s` seconds.
    """
    ms: dict[str, list[float]] = {name: [] for name in networks}
    least, most = ROUNDS
    for network in networks.values():
        with evaluating(network.model):
            network(clips)
    start_s = time.perf_counter()
    while len(next(iter(ms.values()))) < most:
        for name, network in networks.items():
            with evaluating(network.model):
                ms[name].append(network(clips).ms_per_clip)
        if len(ms[name]) >= least and time.perf_counter() - start_s > budget_s:
            break
    device = next(iter(networks.values())).device
    conditions = {
        "order": "in turns, after one round that is not measured",
        "rounds": len(ms[name]),
        "clips_a_pass": len(clips),
        "what": "forward pass in eager mode, median over the rounds",
        "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
        "torch": torch.__version__,
    }
    return Timing({name: tuple(times) for name, times in ms.items()}, conditions)
