"""FusedConv3d: whatever the maps' shape, the kernel lies as oneDNN wants it, and is held once in each layout."""

import pytest
import torch
from torch import Tensor, nn

from atfr import PackedClips
from atfr.optimize.conv import FORMAT, FusedConv3d

SHAPES = (
    (1, 512, 1, 5, 5),
    (1, 512, 2, 4, 4),
    (1, 512, 4, 4, 4),
    (1, 512, 8, 7, 7),
    (2, 512, 3, 5, 5),
    (1, 512, 16, 14, 14),
)


def fused(conv: nn.Conv3d) -> FusedConv3d:
    return FusedConv3d(conv.requires_grad_(False).to(memory_format=FORMAT))


def maps_of(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(*shape).contiguous(memory_format=FORMAT)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv3d(512, 2048, 1),
        nn.Conv3d(512, 2048, 1, stride=(1, 2, 2)),
        nn.Conv3d(192, 384, 3, padding=1),
        nn.Conv3d(144, 288, 3, padding=1, stride=(1, 2, 2)),
        nn.Conv3d(144, 288, (3, 1, 1), padding=(1, 0, 0)),
    ],
    ids=str,
)
def test_no_kernel_is_rearranged_in_a_second_call(conv: nn.Conv3d, capfd: pytest.CaptureFixture[str]) -> None:
    """It took oneDNN fifty times as long as the convolution, at every call; with three axes hundreds of times."""
    module, batches = fused(conv), [maps_of((n, conv.in_channels, *sizes)) for n, _, *sizes in SHAPES]
    with torch.inference_mode():
        for maps in batches:
            torch.testing.assert_close(module(maps), conv(maps), rtol=1e-4, atol=1e-4)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            for maps in batches:
                module(maps)
    lines = capfd.readouterr().out.splitlines()
    assert len([line for line in lines if ",convolution," in line]) == len(SHAPES)
    assert not [line for line in lines if ",reorder," in line]


def test_a_kernel_that_is_prepared_needs_no_gaps_between_clips() -> None:
    """SlowFast's slow pathway keeps one to four maps of a clip: the zeros were half of what it convolved."""
    conv = nn.Conv3d(4, 32, 3, padding=1)
    module, packed = fused(conv), PackedClips.pack([torch.randn(4, length, 3, 3) for length in (2, 3, 1)])
    with torch.inference_mode():
        torch.testing.assert_close(module(packed).plain(), conv(packed).plain(), rtol=1e-4, atol=1e-4)
    assert [shape[2] for shape, *_ in module._by_shape] == [2, 3, 1]


@pytest.mark.parametrize("conv", [nn.Conv3d(512, 2048, 1), nn.Conv3d(96, 192, 3, padding=1)], ids=str)
def test_a_layout_is_held_once(conv: nn.Conv3d) -> None:
    module = fused(conv)
    with torch.inference_mode():
        for length in range(1, 33):
            module(maps_of((1, conv.in_channels, length, 4, 4)))
    assert len(module._by_shape) == 32
    assert 1 <= len(module._by_layout) <= 4
    assert {id(kernel) for kernel in module._by_shape.values()} == {id(one) for one in module._by_layout.values()}


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("shape", [(1, 16, 1, 1, 1), (2, 16, 1, 1, 1), (1, 16, 2, 1, 1), (1, 16, 1, 1, 2)])
def test_a_shortcut_is_added_to_maps_of_a_single_number(kernel: int, shape: tuple[int, ...]) -> None:
    """With PyTorch 2.11 oneDNN adds nothing to such maps: it cannot create a memory."""
    conv = nn.Conv3d(16, 16, kernel, padding=kernel // 2)
    maps, shortcut = maps_of(shape), maps_of(shape)
    with torch.inference_mode():
        torch.testing.assert_close(fused(conv)(maps, shortcut), conv(maps) + shortcut)
