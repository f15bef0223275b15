"""How much of what SGS saves in multiply-adds it saves in time: static and adaptive network in turns, part by part.

work = work_of(model, (3, 13, 160, 160), active_bins=[6])
with eager(model, clips, work) as pair:
    saving = measure({"eager": pair})[0]["eager"]
print(saving.speedup, saving.ideal, saving.efficiency)
"""

from atfr.speed.clocked import Clocked
from atfr.speed.eager import eager, without_sgs
from atfr.speed.forcing import forced, ragged
from atfr.speed.saving import Pair, Saving, Work, measure, work_of

__all__ = ["Clocked", "Pair", "Saving", "Work", "eager", "forced", "measure", "ragged", "without_sgs", "work_of"]
