"""Clips of different lengths in one tensor, and the operations that keep them apart."""

from atfr.ragged.operations import OPERATIONS
from atfr.ragged.packed import ClipLayout, PackedClips

__all__ = ["ClipLayout", "PackedClips"]

PackedClips.operations = OPERATIONS
