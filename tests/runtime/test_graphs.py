"""Samplers in the early graph, with each of their options, as the layer computes it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.adapt.trace import site_names
from atfr.runtime.bundle import ENGINES
from atfr.runtime.graphs import EARLY, LATE, PER_SITE, graphs

SHAPE = (3, 6, 8, 8)
DIM = {"embedding_dim": 3}
OPTIONS = {  # plain SGS: test_bundle
    "angular": {"kernel": "kronecker", "top_edge": "paper", "similarity": "angular", **DIM, "num_bins": (4, 8)},
    "change": {"after": "input", "sampler": "change", "num_bins": 5},
    "blocks": {"kernel": "keep", "edge_maps": 1, "temporal_block": 4},
    "spherical": {"kernel": "linear_mean", "order": "time", "similarity": "spherical", **DIM, "num_bins": (2, 4, 4)},
}


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early, self.late = nn.Conv3d(3, 4, 1), nn.Conv3d(4, 5, 3, padding=1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.late(self.early(clips)).mean((2, 3, 4))


@pytest.mark.parametrize(
    ("options", "runtime"),
    [
        pytest.param(
            options, runtime, id=f"{name}-{runtime}", marks=() if (number + turn) % 2 == 0 else pytest.mark.soak
        )
        for number, (name, options) in enumerate(OPTIONS.items())  # in turns
        for turn, runtime in enumerate(ENGINES)
    ],
)
def test_as_the_layer_does(tmp_path: Path, runtime: str, options: dict) -> None:
    model = Tiny().eval()
    atfr.adapt_(model, **{"after": "early", "example": torch.zeros(1, *SHAPE)} | options)
    for layer in site_names(model).values():
        for parameter in layer.parameters():
            nn.init.normal_(parameter)
    requests = {}
    for stem, program in graphs(model, SHAPE).items():
        ENGINES[runtime].write(program, tmp_path / stem)
        requests[stem] = ENGINES[runtime](tmp_path / stem, 1, "float32").request()
    clips = torch.randn(4, *SHAPE) * torch.linspace(0.2, 3, 6).view(-1, 1, 1)
    clips[1] = clips[1, :, :1]
    clips[2] = 0.0
    for clip in clips:
        with torch.no_grad(), atfr.record(model) as trace:
            logits = model(clip[None])
        (site,) = trace.sites.values()
        maps, assignment, weights, _, active_bins = requests[EARLY](clip[None].numpy())
        assert active_bins.tolist() == trace.kept_maps
        assert assignment.tolist() == site.assignment.tolist()
        torch.testing.assert_close(torch.from_numpy(weights), site.weights, rtol=1e-3, atol=1e-4)
        ours = torch.from_numpy(requests[LATE](maps[: trace.kept_maps[0]])[0])
        torch.testing.assert_close(ours, logits, rtol=1e-4, atol=1e-5)
    assert len(PER_SITE) == 5
