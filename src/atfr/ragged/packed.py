"""PackedClips: a batch of clips of different lengths as one tensor, end to end along time.

After Similarity Guided Sampling each clip has its own number of feature maps. Packed, the batch is one tensor of shape
``1 x C x S x H x W`` (S = sum of the lengths): pointwise and spatial operations are right as they stand, without
padding or mask, and batch-norm statistics are those of the real maps. Operations that reach across time are done clip
by clip. What is supported is a closed list (`atfr.ragged.operations`); anything else raises.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from atfr.errors import InputError, UnsupportedOperationError
from atfr.ragged import sizes

TIME = 2  # the axis along which clips lie end to end


class ClipLayout:
    """Where each clip lies along the packed time axis.

    Args:
        lengths: maps of each clip, in order; all at least 1.
        device_lengths: the same numbers on the device of the data, when they are there already (spares a transfer).

    Attributes:
        kept: what operations have calculated from the lengths, for the next that asks the same.
    """

    def __init__(self, lengths: Sequence[int], device_lengths: Int[Tensor, " N"] | None = None) -> None:
        self.lengths = tuple(lengths)
        self.total = sum(self.lengths)
        self._device_lengths = device_lengths
        self._clip_index: Tensor | None = None
        self.kept: dict[Any, Any] = {}

    def __len__(self) -> int:
        return len(self.lengths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClipLayout) and self.lengths == other.lengths

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[type, tuple[tuple[int, ...]]]:
        return ClipLayout, (self.lengths,)

    def device_lengths(self, device: torch.device) -> Int[Tensor, " N"]:
        """Return the lengths as a tensor on a device, kept for the next call."""
        if self._device_lengths is None or self._device_lengths.device != device:
            with torch.inference_mode(False):
                lengths = torch.tensor(self.lengths, pin_memory=device.type == "cuda")
                self._device_lengths = lengths.to(device, non_blocking=True)
        return self._device_lengths

    def clip_index(self, device: torch.device) -> Int[Tensor, " S"]:
        """Return for every packed map the number of its clip, kept for the next call."""
        if self._clip_index is None or self._clip_index.device != device:
            with torch.inference_mode(False):  # training may use what a pass in inference mode has kept
                clips = torch.arange(len(self), device=device)
                lengths = self.device_lengths(device).clone()
                self._clip_index = clips.repeat_interleave(lengths, output_size=self.total)
        return self._clip_index

    def time_index(self, device: torch.device) -> Int[Tensor, " S"]:
        """Return for every packed map its number in its clip, kept for the next call."""
        if (found := self.kept.get(device)) is None:
            with torch.inference_mode(False):
                lengths = self.device_lengths(device).clone()
                begins = (lengths.cumsum(0) - lengths)[self.clip_index(device)]
                found = self.kept[device] = torch.arange(self.total, device=device) - begins
        return found

    def bounds(self, device: torch.device) -> tuple[Int[Tensor, " S"], Int[Tensor, " S"]]:
        """Return for every packed map the first map of its clip and the one behind its last; kept for the next call."""
        if (found := self.kept.get((device, "bounds"))) is None:
            with torch.inference_mode(False):
                begins = torch.arange(self.total, device=device) - self.time_index(device)
                ends = begins + self.device_lengths(device).clone()[self.clip_index(device)]
                found = self.kept[device, "bounds"] = begins.int(), ends.int()
        return found


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
        return self.as_subclass(Tensor)

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


def operation_name(func: Callable[..., Any]) -> str:
    """Return the name under which users know a torch function."""
    name = getattr(func, "__name__", repr(func))
    owner = getattr(func, "__self__", None)
    return f"property {owner.__name__}" if name == "__get__" and owner is not None else f"operation '{name}'"
