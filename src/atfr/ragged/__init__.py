"""Clips of different lengths in one tensor, and the operations that keep them apart."""

from atfr.ragged.packed import ClipLayout, PackedClips
from atfr.ragged import operations as _operations  # noqa: I001  fills the closed list of operations

__all__ = ["ClipLayout", "PackedClips"]

PackedClips.operations = _operations.OPERATIONS
