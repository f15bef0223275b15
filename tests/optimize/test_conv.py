"""FusedConv3d: whatever the maps' shape, the kernel lies as oneDNN wants it, and is held once in each layout."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from atfr.optimize.conv import FORMAT, FusedConv3d

SHAPES = ((1, 512, 2, 4, 4), (1, 512, 4, 4, 4), (1, 512, 8, 7, 7), (2, 512, 3, 5, 5), (1, 512, 16, 14, 14))


def fused(conv: nn.Conv3d) -> FusedConv3d:
    return FusedConv3d(conv.requires_grad_(False).to(memory_format=FORMAT))


def maps_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=FORMAT)


@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_no_kernel_is_rearranged_in_a_second_call(stride: object, capfd: pytest.CaptureFixture[str]) -> None:
    """It took oneDNN fifty times as long as the convolution, at every call."""
    conv = nn.Conv3d(512, 2048, 1, stride=stride)
    module, batches = fused(conv), [maps_of(shape) for shape in SHAPES]
    with torch.inference_mode():
        for maps in batches:
            torch.testing.assert_close(module(maps), F.conv3d(maps, conv.weight, conv.bias, stride))
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            for maps in batches:
                module(maps)
    lines = capfd.readouterr().out.splitlines()
    assert len([line for line in lines if ",convolution," in line]) == len(SHAPES)
    assert not [line for line in lines if ",reorder," in line]


def test_a_layout_is_held_once() -> None:
    module = fused(nn.Conv3d(512, 2048, 1))
    with torch.inference_mode():
        for length in range(1, 33):
            module(maps_of((1, 512, length, 4, 4)))
    assert len(module._by_shape) == 32
    assert 1 <= len(module._by_layout) <= 4
    assert {id(kernel) for kernel in module._by_shape.values()} == {id(one) for one in module._by_layout.values()}


def test_other_kernels_are_held_once_whatever_the_shape() -> None:
    module = fused(nn.Conv3d(8, 8, 3, padding=1))
    with torch.inference_mode():
        for length in range(1, 5):
            module(maps_of((1, 8, length, 4, 4)))
    assert len(module._by_shape) == 1


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1, 1), (2, 16, 1, 1, 1), (1, 16, 2, 1, 1), (1, 16, 1, 1, 2)])
def test_a_shortcut_is_added_to_maps_of_a_single_number(kernel: int, shape: tuple[int, ...]) -> None:
    """With PyTorch 2.11 oneDNN adds nothing to such maps: it cannot create a memory."""
    conv = nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    maps, shortcut = maps_of(shape), maps_of(shape)
    with torch.inference_mode():
        torch.testing.assert_close(fused(conv)(maps, shortcut), conv(maps) + shortcut)
