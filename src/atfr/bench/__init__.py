"""Measure what can be relied on: variants in turns in one process, the machine's limits, conditions written down.

timing = in_turns({"static": lambda: static(clips), "adaptive": lambda: adaptive(clips)})
print(timing.speedup("adaptive", over="static"))     # 1.52 (1.44 to 1.61)
write_result("out.json", {"batch_of_1": timing.to_dict()}, inputs={"clip_shape": [3, 13, 160, 160]})
"""

from atfr.bench.limits import Limits, machine_limits
from atfr.bench.machine import conditions
from atfr.bench.memory import peak_memory
from atfr.bench.result import write_result
from atfr.bench.script import script_options
from atfr.bench.turns import Ratio, Timing, Variant, in_turns

__all__ = [
    "Limits",
    "Ratio",
    "Timing",
    "Variant",
    "conditions",
    "in_turns",
    "machine_limits",
    "peak_memory",
    "script_options",
    "write_result",
]
