"""The data sets of the field, in the layout in which they are downloaded: one class each, by name in `DATA_SETS`."""

from atfr.data.sets.hmdb51 import HMDB51
from atfr.data.sets.kinetics import Kinetics400, Kinetics600, MiniKinetics200
from atfr.data.sets.listed import ListedSet, ListedVideo
from atfr.data.sets.something import SomethingSomethingV2
from atfr.data.sets.ucf101 import UCF101

__all__ = [
    "DATA_SETS",
    "HMDB51",
    "UCF101",
    "Kinetics400",
    "Kinetics600",
    "ListedSet",
    "ListedVideo",
    "MiniKinetics200",
    "SomethingSomethingV2",
]

DATA_SETS: dict[str, type[ListedSet]] = {
    "kinetics400": Kinetics400,
    "kinetics600": Kinetics600,
    "mini_kinetics200": MiniKinetics200,
    "ssv2": SomethingSomethingV2,
    "ucf101": UCF101,
    "hmdb51": HMDB51,
}
