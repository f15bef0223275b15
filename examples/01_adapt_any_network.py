"""Adapt a network of one's own: SGS in, what each clip keeps and costs, SGS out again.

    python examples/01_adapt_any_network.py

A few seconds; no data. What is done here with a small network goes for any `nn.Module` of 3D convolutions.
"""

import torch
from torch import Tensor, nn
from torchvision.models.video import r3d_18

import atfr
from atfr.ragged import each_clip


class TinyNet(nn.Module):
    """A 3D CNN as people write them; it knows nothing of SGS."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        frame_by_frame = nn.Conv3d(3, 16, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        self.early = nn.Sequential(frame_by_frame, nn.BatchNorm3d(16), nn.ReLU())
        self.late = nn.Sequential(nn.Conv3d(16, 32, 3, stride=(1, 2, 2), padding=1), nn.BatchNorm3d(32), nn.ReLU())
        self.head = nn.Linear(32, num_classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits N x K of clips N x 3 x T x H x W."""
        return self.head(self.late(self.early(clips)).mean((2, 3, 4)))


class ReversingNet(TinyNet):
    """Looks at each clip backwards as well: an operation that reaches across time."""

    def forward(self, clips: Tensor) -> Tensor:
        """Return logits N x K of clips N x 3 x T x H x W."""
        maps = self.late(self.early(clips))
        return self.head((maps + self.backwards(maps)).mean((2, 3, 4)))

    def backwards(self, maps: Tensor) -> Tensor:
        """Return the maps in reverse order of time."""
        return maps.flip(2)


class RightReversingNet(ReversingNet):
    """The same, clip by clip."""

    def backwards(self, maps: Tensor) -> Tensor:
        """Return the maps of each clip in reverse order of time."""
        return each_clip(lambda clip: clip.flip(2), maps)


def clips_that_differ() -> Tensor:
    """Return three clips of 16 frames: of one picture, of four in turn, and of sixteen."""
    pictures = torch.rand(16, 3, 64, 64) * torch.rand(16, 3, 1, 1)
    clips = [pictures[[t * count // 16 for t in range(16)]].transpose(0, 1) for count in (1, 4, 16)]
    return torch.stack(clips)


def main() -> None:
    """Adapt, look, count, restore; then see what is refused."""
    torch.manual_seed(0)
    clips = clips_that_differ()  # N x C x T x H x W

    # One line puts SGS behind a submodule. No parameter is renamed, and the forward signature stays.
    model = TinyNet(num_classes=5).eval()
    before = model(clips)
    report = atfr.adapt_(model, after="early", kernel="linear_mean")
    print(f"SGS behind {report.path!r}: {report.channels} channels, {report.new_parameters} new parameters")

    # `record` tells what each clip kept; `clip_cost` what that costs. "GFLOPs" are multiply-adds / 1e9.
    with atfr.record(model) as trace, torch.no_grad():
        logits = model(clips)
    cost = atfr.clip_cost(model, (3, 16, 64, 64))
    spent = [f"{count / 1e9:.3f}" for count in cost.of(trace)]
    print(f"logits {tuple(logits.shape)}; maps kept of 16: {trace.active_bins.tolist()}")
    print(f"GFLOPs by clip: {', '.join(spent)}; without SGS: {cost.static / 1e9:.3f}")

    # A clip's result does not depend on the clips beside it.
    with torch.no_grad():
        alone = torch.cat([model(clip[None]) for clip in clips])
    print(f"in a batch and alone the logits differ by {(alone - logits).abs().max():.0e}")

    # Finer bins tell more maps apart, fewer bins spend less; also in a trained network.
    for num_bins in (64, 4):
        atfr.set_num_bins_(model, num_bins)
        with atfr.record(model) as trace, torch.no_grad():
            model(clips)
        print(f"with {num_bins} bins: {trace.active_bins.tolist()} maps")

    # Out again, bit for bit.
    atfr.restore_(model)
    print(f"restored: {torch.equal(model(clips), before)}")

    # torchvision's networks as they are: SGS behind a submodule, by its path.
    resnet = r3d_18().eval()
    atfr.adapt_(resnet, after="layer1", kernel="linear_mean")
    with atfr.record(resnet) as trace, torch.no_grad():
        resnet(clips)
    print(f"torchvision's r3d_18: {trace.active_bins.tolist()} maps")

    # Behind SGS clips differ in length. What would mix them is refused at once, and nothing is changed.
    try:
        atfr.adapt_(ReversingNet(num_classes=5), after="early")
    except atfr.errors.UnsupportedNetworkError as error:
        print(f"refused: {error}")
    atfr.adapt_(RightReversingNet(num_classes=5), after="early")
    print("with each_clip it works")


if __name__ == "__main__":
    main()
