"""FusedConv3d: a convolution, the addition of a shortcut and an activation as one operation.

On CPUs it is an operation of oneDNN that torch.compile uses too; the kernel is kept in oneDNN's own layout. PyTorch's
`conv3d` adds a pass over the maps for each further step, brings the kernel into that layout at every call, and takes a
slow path of copies and matrix products for many of the narrow 1 x 1 x 1 convolutions of X3D.

Which layout oneDNN wants for the kernel of a 1 x 1 x 1 convolution depends on the number of maps and their size. One in
another layout it rearranges at every call, which may take fifty times as long as the convolution. So such kernels are
kept by the shape of the maps; the layouts are few, and each is held once.

N batch, C channels, T frames, H, W.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.optimize.activations import ACTIVATIONS, Activation
from atfr.ragged import PackedClips
from atfr.ragged.windows import conv3d

FORMAT = torch.channels_last_3d


class FusedConv3d(nn.Module):
    """What a convolution, the addition of further maps and an activation do, for inference.

    Args:
        conv: The convolution, with batch norm folded in; its weights are shared.

    Attributes:
        activation: What follows; None where nothing does.
    """

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self.stride, self.padding, self.dilation, self.groups = conv.stride, conv.padding, conv.dilation, conv.groups
        self.activation: Activation | None = None
        self._on_pixels = self.weight[0, 0].numel() == self.groups == 1
        self._pointwise = self._on_pixels and self.stride == (1, 1, 1)
        self._forget()

    def _forget(self) -> None:
        self._by_shape: dict[torch.Size | None, Tensor] = {}
        self._by_layout: dict[bytes, Tensor] = {}

    def forward(
        self, maps: Float[Tensor, "N C T H W"], shortcut: Float[Tensor, "N C2 T2 H2 W2"] | None = None
    ) -> Float[Tensor, "N C2 T2 H2 W2"]:
        """Convolve, add the shortcut, activate; packed clips stay apart."""
        if shortcut is not None and not self._adds(maps, shortcut):
            summed = self._run(maps, None, None) + shortcut
            return ACTIVATIONS[self.activation].in_place(summed) if self.activation else summed
        return self._run(maps, shortcut, self.activation)

    def _adds(self, maps: Tensor, shortcut: Tensor) -> bool:
        """Whether the shortcut can be added within the operation: maps of the output's shape, clips as they lie."""
        if torch.compiler.is_compiling():  # which fuses by itself, and would take questions about sizes as conditions
            return False
        if isinstance(maps, PackedClips):
            alone = len(maps.lengths) == 1 or (self.weight.shape[2] == 1 and self.stride[0] == 1)
            if not alone or not isinstance(shortcut, PackedClips):
                return False
        elif isinstance(shortcut, PackedClips):
            return False
        if self._pointwise:
            return shortcut.shape == (maps.shape[0], len(self.weight), *maps.shape[2:]) and shortcut.dtype == maps.dtype
        padding: Any = self.padding
        window = zip(maps.shape[2:], self.weight.shape[2:], self.stride, padding, self.dilation, strict=True)
        sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in window]
        return shortcut.shape == (maps.shape[0], len(self.weight), *sizes) and shortcut.dtype == maps.dtype

    def _run(self, maps: Tensor, shortcut: Tensor | None, activation: Activation | None) -> Tensor:
        if not isinstance(maps, PackedClips):
            return self._convolve(maps, shortcut, activation)
        added = shortcut.plain() if isinstance(shortcut, PackedClips) else None

        def of_clips(clips: Tensor, *_: Any) -> Tensor:
            return self._convolve(clips, added, activation)

        return conv3d(of_clips, maps, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _convolve(self, maps: Tensor, shortcut: Tensor | None, activation: Activation | None) -> Tensor:
        weight, bias = self.weight, self.bias
        form = ACTIVATIONS[activation] if activation else None
        if not suits_onednn(maps, weight):
            result = F.conv3d(maps, weight, bias, self.stride, self.padding, self.dilation, self.groups)
            result = result if shortcut is None else result + shortcut
        elif self._pointwise and shortcut is None and maps.shape[2:] == (1, 1, 1):
            result = F.linear(maps.flatten(1), weight.flatten(1), bias)[..., None, None, None]
        elif form and form.onednn:
            return self._onednn(maps, shortcut, *form.onednn)
        else:
            result = self._onednn(maps, shortcut, "none", [])
        return form.in_place(result) if form else result

    def _onednn(self, maps: Tensor, shortcut: Tensor | None, activation: str, scalars: list[float]) -> Tensor:
        maps = maps.contiguous(memory_format=FORMAT)
        layer = (self._prepared(maps.shape), self.bias, self.padding, self.stride, self.dilation, self.groups)
        if shortcut is None:
            return torch.ops.mkldnn._convolution_pointwise(maps, *layer, activation, scalars, "")
        shortcut, unary = shortcut.contiguous(memory_format=FORMAT), None if activation == "none" else activation
        binary = torch.ops.mkldnn._convolution_pointwise.binary
        return binary(maps, shortcut, *layer, "add", 1.0, unary, scalars, "")

    def _prepared(self, shape: torch.Size) -> Tensor:
        """Return the kernel in the layout that oneDNN wants for maps of this shape; it is kept."""
        asked = shape if self._on_pixels else None
        kernel = self._by_shape.get(asked)
        if kernel is None:
            window = (self.padding, self.stride, self.dilation, self.groups)
            made = torch.ops.mkldnn._reorder_convolution_weight(self.weight.detach(), *window, list(asked or ()))
            layout = bytes(torch.ops.mkldnn._get_mkldnn_serialized_md(made).tolist())
            kernel = self._by_shape[asked] = self._by_layout.setdefault(layout, made)
        return kernel

    def _apply(self, *args: Any, **kwargs: Any) -> "FusedConv3d":
        self._forget()  # kernels are made anew from weights of another type or device
        return super()._apply(*args, **kwargs)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_by_shape": {}, "_by_layout": {}}  # a copy makes its own

    def extra_repr(self) -> str:
        """Show the sizes in the module's printed form."""
        shape = "x".join(map(str, self.weight.shape))
        return f"{shape}, stride={self.stride}, padding={self.padding}, activation={self.activation}"


def suits_onednn(maps: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's operation takes these maps: on a CPU, without gradients, and not in a graph for others."""
    if maps.device.type != "cpu" or maps.dtype != weight.dtype or maps.dtype not in (torch.float32, torch.bfloat16):
        return False
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and (maps.requires_grad or weight.requires_grad)):
        return False
    return torch.backends.mkldnn.is_available() and bool(torch.backends.mkldnn.enabled)
