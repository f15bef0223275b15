"""Clips of different lengths in one tensor, and the operations that keep them apart."""

from atfr.ragged import axes, norms, reductions, windows  # noqa: F401  each adds its operations to the lists
from atfr.ragged.at_once import same_in_time
from atfr.ragged.clipwise import cat_clips, each_clip
from atfr.ragged.layout import ClipLayout, Same
from atfr.ragged.operations import OPERATIONS, REARRANGED
from atfr.ragged.packed import PackedClips
from atfr.ragged.rearranged import RearrangedClips

__all__ = ["ClipLayout", "PackedClips", "Same", "cat_clips", "each_clip", "same_in_time"]

PackedClips.operations = OPERATIONS
RearrangedClips.operations = REARRANGED
