"""Measure what can be relied on: variants in turns in one process, the machine's limits, conditions written down.

timing = in_turns({"static": lambda: static(clips), "adaptive": lambda: adaptive(clips)})
print(timing.speedup("adaptive", over="static"))     # 1.52 (1.44 to 1.61)
write_result("out.json", {"batch_of_1": timing.to_dict()}, inputs={"clip_shape": [3, 13, 160, 160]})

How much of what a sampler saves in multiply-adds it saves in time (`saving`), networks ready to be timed (`eager`,
`graphs`), a chosen A (`forcing`) and passes timed part by part (`clocked`):

work = work_of(model, (3, 13, 160, 160), active_bins=[6])
with eager(model, clips, work) as pair:
    saving = measure({"eager": pair})[0]["eager"]
print(saving.speedup, saving.ideal, saving.efficiency)
"""

from atfr.measure.machine import Limits, conditions, machine_limits
from atfr.measure.memory import peak_memory
from atfr.measure.result import write_result
from atfr.measure.script import script_options
from atfr.measure.turns import Ratio, Timing, Variant, in_turns

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
