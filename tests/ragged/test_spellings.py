"""Ways in which networks of the field write attention, masks and Grad-CAM: packed clips as each clip alone."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import atfr
from atfr.errors import UnsupportedOperationError
from atfr.ragged import PackedClips
from tests.ragged.build import make_clips, same_as_loop

SAME = {
    "where": lambda x: torch.where(x > 0, x, 0.5 * x),
    "where of a method": lambda x: x.where(x.abs() <= 1, torch.zeros_like(x)),
    "masked_fill": lambda x: x.masked_fill(~x.isfinite() | (x < -1), 0.0),
    "greater than a row a clip": lambda x: x * (x >= x.mean((2, 3, 4), keepdim=True)).float(),
    "lerp": lambda x: torch.lerp(x, x.relu(), 0.25),
    "numpy's names": lambda x: x * torch.mean(x, axis=(2, 3, 4), keepdims=True).sigmoid(),
    "numpy's names within a map": lambda x: x - x.mean(axis=(3, 4), keepdims=True),
    "softmax along an axis": lambda x: torch.softmax(x, axis=1),
    "largest channel": lambda x: x * torch.max(x, 1, keepdim=True)[0].sigmoid(),
    "largest channel, values": lambda x: x + x.max(dim=1, keepdim=True).values - x.min(1, True).values,
    "spatial attention": lambda x: torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1),
    "largest of two": lambda x: torch.max(x, 0.5 * x),
    "unsqueezed twice": lambda x: x * x.mean((3, 4)).unsqueeze(-1).unsqueeze(-1).sigmoid(),
    "unsqueezed from the front": lambda x: x * x.mean((3, 4)).unsqueeze(3).unsqueeze(4),
    "unsqueezed channel": lambda x: x * x.mean(1).unsqueeze(1),
    "excitation, flattened": lambda x: x * F.adaptive_avg_pool3d(x, 1).flatten(1)[:, :, None, None, None].sigmoid(),
    "excitation, unsqueezed": lambda x: x * x.mean((2, 3, 4)).unsqueeze(-1).unsqueeze(-1).unsqueeze(-1),
    "excitation, viewed": lambda x: x * x.mean(dim=[2, 3, 4]).view(-1, 4, 1, 1, 1).expand_as(x),
}


@pytest.mark.parametrize("name", SAME)
def test_as_each_clip_alone(name: str) -> None:
    same_as_loop(SAME[name], dtype=torch.float64, tolerance=1e-9)


def test_what_would_mix_clips_is_refused() -> None:
    packed = PackedClips.pack(make_clips())
    for mixing in (
        lambda x: x.max(),
        lambda x: torch.max(x, 2),
        lambda x: x.unsqueeze(0),
        lambda x: torch.where(x > 0, x, torch.ones(1, 1, 11, 1, 1)),
        lambda x: x.masked_fill(torch.ones(1, 1, 11, 1, 1, dtype=torch.bool), 0.0),
        lambda x: torch.max(x, torch.ones(1, 1, 11, 1, 1)),
        lambda x: torch.zeros(1, 4, 11, 5, 6).masked_fill_(x > 0, 1.0),
        lambda x: bool((x > 0).all()),
    ):
        with pytest.raises(UnsupportedOperationError):
            mixing(packed)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pooling_to_a_size_that_happens_to_be_the_sum_of_lengths(count: int) -> None:
    """Two still clips keep one map each, and two is the size that is asked for."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv3d(3, 4, 1), nn.AdaptiveAvgPool3d((2, 1, 1)), nn.Flatten(), nn.Linear(8, 5))
    atfr.adapt_(model, after="0")
    clips = torch.rand(count, 3, 1, 6, 6).expand(-1, -1, 4, -1, -1)
    with atfr.record(model) as trace:
        logits = model(clips)
    assert trace.kept_maps == [1] * count
    torch.testing.assert_close(logits, torch.cat([model(clip[None]) for clip in clips]))


class Headed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early, self.late, self.head = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 4, 3, padding=1), nn.Linear(4, 5)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.late(self.early(clips)).relu().mean((2, 3, 4)))


def test_grad_cam() -> None:
    """Maps of a layer weighted by the gradient of a logit: of a clip in a batch as of the clip alone."""
    torch.manual_seed(0)
    model = Headed().double()
    atfr.adapt_(model, after="early", sampler="uniform", active_bins=2.5)
    clips = torch.rand(3, 3, 6, 5, 5, dtype=torch.float64)
    maps: list[Tensor] = []
    model.late.register_forward_hook(lambda module, args, output: maps.append(output))

    def cam(batch: Tensor) -> PackedClips:
        logits = model(batch)
        (gradient,) = torch.autograd.grad(logits[:, 2].sum(), maps[-1], retain_graph=True)
        assert gradient.lengths == maps[-1].lengths
        (again,) = torch.autograd.grad(
            [logits], [maps[-1]], grad_outputs=[F.one_hot(torch.tensor(2), 5).expand(len(batch), 5).double()]
        )
        assert torch.equal(again.plain(), gradient.plain())
        return (gradient.mean((2, 3, 4), keepdim=True) * maps[-1]).sum(1, keepdim=True).relu()

    together = cam(clips).unpack()
    assert len({clip.shape[1] for clip in together}) > 1
    for clip, alone in zip(together, (cam(clip[None]).unpack()[0] for clip in clips), strict=True):
        torch.testing.assert_close(clip, alone)


OPTIONS = [
    {"padding": 1, "padding_mode": "circular", "groups": 4},
    {"padding": 1, "padding_mode": "replicate", "groups": 4},
    {"padding": 1, "groups": 4},
    {"padding": "same", "groups": 4},
    {"padding": 1, "groups": 4, "bias": False},
    {"padding": 1, "groups": 2},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, 4, 3, 5, 6), (4, 3, 5, 6), (0, 4, 3, 5, 6), (2, 5, 3, 5, 6)], ids=str)
def test_conv3d_is_that_of_torch(options: dict[str, object], shape: tuple[int, ...]) -> None:
    from atfr.kernels.conv3d import Conv3d

    ours, theirs = Conv3d(4, 4, 3, **options), nn.Conv3d(4, 4, 3, **options)
    ours.load_state_dict(theirs.state_dict())
    results = []
    for layer in (ours, theirs):
        clips = torch.rand(shape, generator=torch.Generator().manual_seed(0)).requires_grad_()
        try:
            output = layer(clips)
            output.square().sum().backward()
            results.append([output.detach(), clips.grad, layer.weight.grad])
        except RuntimeError as error:
            results.append([str(error)])
    for one, other in zip(*results, strict=True):
        if isinstance(one, str):
            assert one == other
        else:
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
