"""Packed clips whose axes are in another order, merged or gone: what heads make on their way to the logits.

``x.permute(0, 2, 3, 4, 1)`` before a linear layer, ``x.flatten(2)`` before a mean, ``x.mean(-1)`` on the way to the
next ``mean(-1)``: each keeps the clips apart as long as one knows which axis is which. `RearrangedClips` knows, and has
a closed list of operations of its own, shorter than that of `PackedClips` (`REARRANGED` in `operations`).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from atfr.errors import UnsupportedOperationError
from atfr.ragged import sizes
from atfr.ragged.layout import ClipLayout
from atfr.ragged.packed import PackedClips, operation_name, plain_of

Form = tuple[tuple[int, ...], ...]
"""Which axes of 1 x C x S x H x W each axis holds: channels last is ((0,), (2,), (3,), (4,), (1,)), `flatten(2)` is
((0,), (1,), (2, 3, 4)); an axis that appears nowhere has been averaged away."""

AS_PACKED: Form = sizes.AS_PACKED


class RearrangedClips(Tensor):
    """Packed clips in another form. Only operations on packed clips make it, and the way back is theirs too.

    Attributes:
        clip_layout: the clips along the packed time axis.
        form: which axes of the maps 1 x C x S x H x W each axis of this tensor holds.
        sizes: the sizes of those maps.
    """

    operations: ClassVar[dict[Any, Callable[..., Any]]] = {}
    clip_layout: ClipLayout
    form: Form
    sizes: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of feature maps of each clip."""
        return self.clip_layout.lengths

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"RearrangedClips(lengths={self.lengths}, shape={tuple(self.shape)}, form={self.form})"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = cls.operations.get(func)
        if handler is None or not {cls, Tensor}.issuperset(types):
            beside = " beside packed clips" if PackedClips in types else ""
            raise UnsupportedOperationError(
                f"{operation_name(func)} on rearranged packed clips{beside}: it is not known to keep clips of "
                "different lengths apart. Bring the axes back to N x C x T x H x W first, pool over time before it, or "
                "put the sampler behind it"
            )
        return sizes.run(handler, func, args, kwargs or {})


def form_of(clips: PackedClips | RearrangedClips) -> Form:
    """Return which axes of the maps each axis holds."""
    return clips.form if isinstance(clips, RearrangedClips) else AS_PACKED


def sizes_of(clips: PackedClips | RearrangedClips) -> tuple[int, ...]:
    """Return the sizes of the maps 1 x C x S x H x W."""
    return clips.sizes if isinstance(clips, RearrangedClips) else tuple(clips.shape)


def arranged(result: Tensor, form: Form, sizes: Sequence[int], layout: ClipLayout) -> PackedClips | RearrangedClips:
    """Name the clips of a tensor that an operation has just made, in whatever form it is."""
    if type(result) is Tensor:
        # changed in place, as fresh packed clips are (operations.packed_like)
        result.__class__ = PackedClips if form == AS_PACKED else RearrangedClips
        result.clip_layout = layout  # type: ignore[attr-defined]
        if form != AS_PACKED:
            result.form, result.sizes = form, tuple(sizes)  # type: ignore[attr-defined]
    return result  # type: ignore[return-value]


def order_of(form: Form) -> tuple[list[int], list[int]]:
    """Return the axes of the maps in the form's order, and those that are gone."""
    kept = [axis for group in form for axis in group]
    return kept, [axis for axis in range(5) if axis not in kept]


def rearrange(maps: Float[Tensor, "_ _ _ _ _"], form: Form) -> Float[Tensor, "..."]:
    """Bring plain maps into a form; axes that are not in it must have size 1."""
    if form == AS_PACKED:
        return maps
    kept, gone = order_of(form)
    return maps.permute(*kept, *gone).reshape([math.prod(maps.shape[axis] for axis in group) for group in form])


def maps_of(clips: PackedClips | RearrangedClips) -> Float[Tensor, "1 _ _ _ _"]:
    """Return the plain maps 1 x C x S x H x W of clips in any form, as a view."""
    plain = plain_of(clips)
    if isinstance(clips, PackedClips):
        return plain
    kept, gone = order_of(clips.form)
    apart = plain.reshape([clips.sizes[axis] for axis in kept] + [1] * len(gone))
    order = [*kept, *gone]
    return apart.permute([order.index(axis) for axis in range(5)])


def named_axes(clips: PackedClips | RearrangedClips, dims: Any) -> list[int]:
    """Return axes as numbers from 0; none when none are given."""
    given = [dims] if isinstance(dims, int) else list(dims or ())
    rank = len(form_of(clips))
    if any(not isinstance(dim, int) or not -rank <= dim < rank for dim in given):
        raise IndexError(f"axes {dims} of a tensor of {rank} axes")
    return [dim % rank for dim in given]


def only_within_maps(func: Callable[..., Any], clips: PackedClips | RearrangedClips, dims: Sequence[int]) -> None:
    """Raise unless each of the axes is channels, height or width alone: what is done there stays within one map."""
    form = form_of(clips)
    if any(form[dim] not in ((1,), (3,), (4,)) for dim in dims):
        raise UnsupportedOperationError(
            f"{operation_name(func)} along axes {tuple(dims)} of packed clips of lengths {clips.lengths}: it is known "
            "to keep the clips apart along channels, height and width only"
        )
