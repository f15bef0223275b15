"""FusedConv3d: a convolution, the addition of a shortcut and an activation as one operation.

On CPUs it is an operation of oneDNN that torch.compile uses too; the kernel is kept in oneDNN's own layout. PyTorch's
`conv3d` adds a pass over the maps for each further step, brings the kernel into that layout at every call, and takes a
slow path of copies and matrix products for many of the narrow 1 x 1 x 1 convolutions of X3D.

Which layout oneDNN wants for a kernel depends on the number of maps and their size. One in another layout it rearranges
at every call, which may take hundreds of times as long as the convolution. So kernels are kept by the shape of the
maps; the layouts are few, and each is held once.

N batch, C channels, T frames, H, W.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.kernels import conv3d as convolution
from atfr.kernels import ragged_depthwise
from atfr.optimize.operations import ACTIVATIONS, Activation
from atfr.private import MKLDNN, MKLDNN_TYPES, is_followed, is_recorded
from atfr.ragged import PackedClips
from atfr.ragged.operations import packed_like
from atfr.ragged.windows import convolved

FORMAT = torch.channels_last_3d


class FusedConv3d(nn.Module):
    """What a convolution, the addition of further maps and an activation do, for inference.

    Args:
        conv: The convolution, with batch norm folded in.

    Attributes:
        add: How a shortcut is added where that is an operation of its own, and `comes_second`: after it.
        activation: What follows; None where nothing does.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().contiguous(memory_format=FORMAT), requires_grad=False)
        self.bias = conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self._window: tuple[Any, Any, Any] = (self.stride, self.padding, self.dilation)
        self.add: Callable[[Any, Any], Tensor] = operator.add
        self.comes_second = False
        self.activation: Activation | None = None
        self._known = True  # these are the weights whose reach was found when the network was rewritten
        self._is_ours = type(conv)._conv_forward is convolution.Conv3d._conv_forward
        self._pointwise = self.weight[0, 0].numel() == self.groups == 1 and self.stride == (1, 1, 1)
        self._forget()

    def _forget(self) -> None:
        self._by_shape: dict[tuple[Any, ...], Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def forward(
        self,
        maps: Float[Tensor, "N C T H W"],
        shortcut: Float[Tensor, "N C2 T2 H2 W2"] | None = None,
        numbers: Sequence[bool] = (False,),
    ) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """Convolve, add the shortcut, activate; packed clips stay apart.

        Args:
            numbers: Whether the sum is known to hold no NaN, which oneDNN's activations lose.
        """
        if shortcut is None and (result := self._in_one_kernel(maps)) is not None:
            return result
        if not self._suits_onednn(maps, shortcut):
            as_before: Any = convolution.conv3d if self._is_ours else F.conv3d  # keeps what it kept
            return self._end(as_before(maps, self.weight, self.bias, *self._window, self.groups), shortcut)
        if shortcut is not None and not self._adds(maps, shortcut):
            return self._end(self._run(maps, None, None), shortcut)
        form = ACTIVATIONS[self.activation] if self.activation else None
        within = form and form.onednn and self._known and all(numbers) and maps.shape[2:] != (1, 1, 1)
        result = self._run(maps, shortcut, form.onednn if form and within else None)
        return form.over(result) if form and not within else result

    def _end(self, result: Tensor, shortcut: Any) -> Tensor:
        """Add and activate as the network did, in operations of their own."""
        if shortcut is not None:
            result = self.add(shortcut, result) if self.comes_second else self.add(result, shortcut)
        return ACTIVATIONS[self.activation].over(result) if self.activation else result

    def _in_one_kernel(self, maps: Tensor) -> Tensor | None:
        """Return what a depthwise convolution and its activation give in one kernel; None where that takes no such."""
        plain = maps.plain() if isinstance(maps, PackedClips) else maps
        takes = type(plain) is Tensor and ragged_depthwise.takes(plain, self.weight, *self._window, self.groups)
        if not takes or is_followed(plain, self.weight, self.bias):
            return None
        bounds = maps.clip_layout.bounds(plain.device) if isinstance(maps, PackedClips) else None
        layer: Any = (self.weight, self.bias, bounds, self.stride, self.padding, self.activation)
        result = ragged_depthwise.depthwise_clips(plain, *layer)
        return packed_like(result, maps.clip_layout) if isinstance(maps, PackedClips) else result

    def _suits_onednn(self, maps: Tensor, shortcut: Any) -> bool:
        """Whether oneDNN's operation takes these maps: on a CPU, without gradients, and not in a graph for others."""
        if MKLDNN is None or torch.compiler.is_compiling() or is_recorded() or not torch.backends.mkldnn.enabled:
            return False
        if type(maps) is PackedClips:
            maps = maps.plain()  # which answers faster
        if type(maps) is not Tensor or maps.device.type != "cpu" or maps.dim() != 5 or 0 in maps.shape:
            return False
        weight = self.weight
        if not maps.dtype == weight.dtype in MKLDNN_TYPES or torch.is_autocast_enabled("cpu"):
            return False
        return not is_followed(maps, shortcut, weight, self.bias)

    def _adds(self, maps: Tensor, shortcut: Any) -> bool:
        """Whether the shortcut can be added within the operation: maps of the output's shape, clips as they lie."""
        if not isinstance(shortcut, Tensor) or type(shortcut) is not type(maps) or shortcut.dtype != maps.dtype:
            return False
        if shortcut.shape[2:] == (1, 1, 1):
            return False  # torch 2.11: "could not create a memory"
        if isinstance(maps, PackedClips) and len(maps.lengths) > 1 and (self.weight.shape[2], self.stride[0]) != (1, 1):
            return False
        if self._pointwise:
            return shortcut.shape == (maps.shape[0], len(self.weight), *maps.shape[2:])
        padding: Any = self.padding
        window = zip(maps.shape[2:], self.weight.shape[2:], self.stride, padding, self.dilation, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in window]
        return shortcut.shape == (maps.shape[0], len(self.weight), *sizes)

    def _run(self, maps: Tensor, shortcut: Tensor | None, activation: tuple[str, list[float]] | None) -> Tensor:
        if not isinstance(maps, PackedClips):
            return self._convolve(maps, shortcut, activation, self.padding)
        added = shortcut.plain() if isinstance(shortcut, PackedClips) else None

        def of_clips(clips: Tensor, padding: Any) -> Tensor:
            return self._convolve(clips, added, activation, padding)

        return convolved(of_clips, maps, self.weight, *self._window)

    def _convolve(self, maps: Tensor, shortcut: Tensor | None, activation: Any, padding: Any) -> Tensor:
        if self._pointwise and shortcut is None and maps.shape[2:] == (1, 1, 1):
            return F.linear(maps.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]
        name, scalars = activation or (None, [])
        maps, weight, stride, padding, dilation = convolution.around_faults(
            maps, self.weight, self.stride, padding, self.dilation
        )
        maps = maps.contiguous(memory_format=FORMAT)
        window = (padding, stride, dilation, self.groups)
        layer = (self._prepared(weight, maps.shape, window), self.bias, *window)
        if shortcut is None:
            return MKLDNN._convolution_pointwise(maps, *layer, name or "none", scalars, "")
        shortcut = shortcut.contiguous(memory_format=FORMAT)
        return MKLDNN._convolution_pointwise.binary(maps, shortcut, *layer, "add", 1.0, name, scalars, "")

    def most(self, maps: float, shortcut: float) -> float:
        """Return a bound of the results, before they are rounded, of maps and a shortcut within these bounds."""
        rows = torch.linalg.vector_norm(self.weight.detach(), 1, (1, 2, 3, 4), dtype=torch.float64) * maps
        rows = rows if self.bias is None else rows + self.bias.detach().double().abs()
        return rows.max().item() + shortcut

    def _prepared(self, weight: Tensor, shape: torch.Size, window: tuple[Any, ...]) -> Tensor:
        """Return the kernel, or what of it meets these maps, in the layout that oneDNN wants for them; it is kept."""
        asked = (shape, *window)
        kernel = self._by_shape.get(asked)
        if kernel is None:
            made = MKLDNN._reorder_convolution_weight(weight.detach(), *window, list(shape))
            layout = bytes(MKLDNN._get_mkldnn_serialized_md(made).tolist())
            kernel = self._by_shape[asked] = self._by_layout.setdefault(layout, made)
        return kernel

    def _apply(self, *args: Any, **kwargs: Any) -> "FusedConv3d":
        self._forget()  # kernels are made anew from weights of another type or device
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        self._known = False
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_by_shape": {}, "_by_layout": {}}  # a copy makes its own

    def extra_repr(self) -> str:
        """Show the sizes in the module's printed form."""
        shape = "x".join(map(str, self.weight.shape))
        return f"{shape}, stride={self.stride}, padding={self.padding}, activation={self.activation}"
