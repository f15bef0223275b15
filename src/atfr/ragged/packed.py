"""PackedClips: a batch of clips of different lengths as one tensor, end to end along time.

After Similarity Guided Sampling each clip has its own number of feature maps. Packed, the batch is one tensor of shape
``1 x C x S x H x W`` (S = sum of the lengths): pointwise and spatial operations are right as they stand, without
padding or mask, and batch-norm statistics are those of the real maps. Operations that reach across time are done clip
by clip. What is supported is a closed list (`atfr.ragged.operations`); anything else raises.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from atfr.errors import InputError, UnsupportedOperationError
from atfr.ragged import sizes
from atfr.ragged.layout import ClipLayout

TIME = 2  # the axis along which clips lie end to end


class PackedClips(Tensor):
    """A batch of clips of different lengths: a tensor of shape ``1 x C x S x H x W`` with the layout of its clips.

    Examples:
        >>> packed = PackedClips.pack([torch.zeros(8, 3, 4, 4), torch.zeros(8, 5, 4, 4)])
        >>> packed.lengths, tuple(packed.shape)
        ((3, 5), (1, 8, 8, 4, 4))
        >>> packed.mean((2, 3, 4)).shape  # over each clip's own maps: a plain batch again
        torch.Size([2, 8])
    """

    operations: ClassVar[dict[Any, Callable[..., Any]]] = {}
    clip_layout: ClipLayout

    @staticmethod
    def __new__(cls, data: Float[Tensor, "1 C S H W"], layout: ClipLayout) -> "PackedClips":
        """Name a plain tensor's clips; the data is shared, not copied."""
        if data.dim() != 5 or data.shape[0] != 1 or data.shape[TIME] != layout.total:
            raise InputError(
                f"packed data must be 1 x C x S x H x W with S = {layout.total}, the sum of the clips' lengths, "
                f"got {tuple(data.shape)}; make it with PackedClips.pack(list of C x T x H x W)"
            )
        packed = data.as_subclass(cls)
        packed.clip_layout = layout
        return packed

    @classmethod
    def pack(cls, clips: Sequence[Float[Tensor, "C _ H W"]]) -> "PackedClips":
        """Return clips of any lengths (C x T x H x W each) as one packed batch.

        Raises:
            InputError: no clip, a clip without frames, or clips that differ in more than their length.
        """
        if not all(isinstance(clip, Tensor) for clip in clips):
            raise InputError(f"pack takes a list of tensors C x T x H x W, got {clips!r:.80}")
        shapes = [tuple(clip.shape) for clip in clips]
        if not shapes or any(len(shape) != 4 or shape[1] < 1 for shape in shapes):
            raise InputError(f"pack takes a list of clips C x T x H x W with T >= 1, got shapes {shapes}")
        if len({(c, h, w) for c, _, h, w in shapes}) > 1:
            raise InputError(f"clips packed together must share C, H and W, got shapes {shapes}; resize them first")
        if len({(clip.dtype, clip.device) for clip in clips}) > 1:
            raise InputError("clips packed together must share dtype and device")
        return cls(torch.cat(list(clips), dim=1).unsqueeze(0), ClipLayout([shape[1] for shape in shapes]))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The number of feature maps of each clip."""
        return self.clip_layout.lengths

    def plain(self) -> Float[Tensor, "1 C S H W"]:
        """Return the same data as an ordinary tensor, clips end to end."""
        return plain_of(self)

    def unpack(self) -> list[Float[Tensor, "C _ H W"]]:
        """Return the clips as ordinary tensors (views), one of C x A x H x W each."""
        return list(self.plain()[0].split(self.lengths, dim=1))

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        shape, dtype = tuple(self.plain().shape), self.plain().dtype
        return f"PackedClips(lengths={self.lengths}, shape={shape}, dtype={dtype})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "PackedClips":
        return PackedClips(self.plain().clone().detach().requires_grad_(self.requires_grad), self.clip_layout)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return PackedClips, (self.plain().detach(), self.clip_layout)

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        handler = cls.operations.get(func)
        if handler is None or not {cls, Tensor}.issuperset(types):
            raise UnsupportedOperationError(
                f"{operation_name(func)} on packed clips: it is not known to keep clips of different lengths apart. "
                "Pool over time first (mean over (2, 3, 4), AdaptiveAvgPool3d(1)), put the sampler behind it, or, in a "
                "forward of your own, run it clip by clip with atfr.ragged.each_clip"
            )
        return sizes.run(handler, func, args, kwargs or {})


def plain_of(clips: Any) -> Tensor:
    """Return packed clips in any form as an ordinary tensor, of the same data."""
    if not clips.clip_layout.traced:
        return clips.as_subclass(Tensor)
    with torch._C.DisableTorchFunctionSubclass():  # what records a graph does not see as_subclass
        return torch.ops.aten.alias(clips)


def operation_name(func: Callable[..., Any]) -> str:
    """Return the name under which users know a torch function."""
    name = getattr(func, "__name__", repr(func))
    owner = getattr(func, "__self__", None)
    return f"property {owner.__name__}" if name == "__get__" and owner is not None else f"operation '{name}'"
