"""Class-activation maps: by hand, against the classifier's own weights, and back through SGS without loss."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import atfr
from atfr import viz
from atfr.errors import InputError
from atfr.viz.watch import carried, last_layers, origins, pathway_of, spread
from tests.adapt.test_sites import Tiny, clips, tell_apart
from tests.evaluate.build import network
from tests.viz.build import by_hand, clip_by_hand

pytestmark = pytest.mark.usefixtures("few_layers")
STAGE = {"": "stage"}


def lively(model: nn.Module) -> nn.Module:
    """Residual branches that are not 0, and magnitudes apart enough for several bins."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1)
        if isinstance(module, atfr.SimilarityGuidedSampling):
            for convolution in module.similarity.children():
                nn.init.zeros_(convolution.bias)
    return model.eval()


def test_through_sgs_by_hand() -> None:
    """The first bin is 1 x frame 0 + 1/2 x frame 1: at their places 8 and 8, over 2 bins of 4 places 1 each.

    Frame 0 has 2/3 of it, frame 1 has 1/3. The second bin is frame 2: 32 at its place, 4 of the mean. Frame 3 was
    dropped, however bright its place.
    """
    found = viz.class_activation(by_hand(), clip_by_hand(), 1, STAGE)
    both = torch.tensor([[1.0, 1], [0, 0]])
    expected = torch.stack([2 / 3 * both, 1 / 3 * both, torch.tensor([[0.0, 0], [4, 0]]), torch.zeros(2, 2)])
    torch.testing.assert_close(found.maps[""], expected)
    torch.testing.assert_close(found.by_frame, torch.tensor([4 / 3, 2 / 3, 4, 0]))
    assert found.logit == pytest.approx(6 + 7)


def test_of_a_static_network_is_the_classifiers_weights_on_the_last_maps() -> None:
    model = network(classes=4, adapted=False)
    x = torch.rand(1, 3, 6, 64, 48)
    with torch.no_grad():
        maps = model.res5(model.res4(model.res3(model.res2(model.stem(x)))))[0]
        logit = model(x)[0, 2]
    expected = torch.einsum("c,cthw->thw", model.head.fc.weight[2], maps) / maps[0].numel()
    found = viz.class_activation(model, x, 2)
    assert found.maps[""].shape == (6, 2, 2)
    torch.testing.assert_close(found.maps[""], expected.detach(), rtol=1e-4, atol=1e-6)
    assert found.logit == pytest.approx(float(logit), abs=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not model.res5._forward_hooks


@pytest.mark.parametrize(
    ("name", "options", "frames"),
    [
        ("resnet3d_18", {"after": "res2"}, 8),
        ("resnet3d_18", {"after": ["res2", "res5"], "order": "time", "kernel": "linear_mean"}, 8),
        ("i3d_50", {"after": "res2"}, 9),  # half of the maps are pooled away behind SGS
        ("slowfast_8x8_r18", {"after": "res2"}, 16),
        ("slowfast_8x8_r18", {"after": ["res2", "res4"]}, 16),
    ],
)
def test_contributions_add_up_to_the_logit_over_all_pathways_and_frames(name: str, options: dict, frames: int) -> None:
    model = atfr.create_model(name, num_classes=3)
    atfr.adapt_(model, **options)
    lively(model).double()
    x = torch.rand(1, 3, frames, 32, 32).double() * torch.linspace(0.1, 3, frames).double()[:, None, None]
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    with viz.watch(model) as watched:
        logit = model(x)[0, 1]
    merged = [(one.lengths[0], watched.sites[site].before[0].shape[1]) for site, one in watched.trace.sites.items()]
    assert min(kept for kept, _ in merged) > 1
    assert any(kept < came for kept, came in merged)
    found = viz.class_activation(model, x, 1)
    assert set(found.maps) == ({"fast", "slow"} if "slowfast" in name else {""})
    assert all(len(maps) == frames for maps in found.maps.values())
    torch.testing.assert_close(found.total.sum().double(), logit - classifier.bias[1], rtol=1e-4, atol=1e-5)


def test_of_a_network_that_is_not_ours() -> None:
    """A linear head behind a temporal stride of 2 before SGS: map i of 5 stands for the i-th fifth of 9 frames."""
    model = Tiny().eval()
    x = clips()[1:2]
    with torch.no_grad():
        maps = model.late(model.middle(model.early(x)).relu())[0]
    own = torch.einsum("c,cthw->thw", model.head.weight[3], maps).detach() / maps[0].numel()
    found = viz.class_activation(model, x, 3, {"": "late"}).maps[""]
    assert found.shape == (9, 6, 6)
    torch.testing.assert_close(found[0], own[0] / 1.8)
    torch.testing.assert_close(found[1], 0.8 * own[0] / 1.8 + 0.2 * own[1] / 1.8)
    with pytest.raises(InputError, match="Tiny does not name its stages"):
        viz.class_activation(model, x, 3)
    atfr.adapt_(model, after="early")
    tell_apart(model)
    adapted = viz.class_activation(model, x, 3, {"": "late"})
    assert float(adapted.total.sum()) == pytest.approx(adapted.logit - model.head.bias[3].item(), rel=1e-4)


@pytest.mark.parametrize("class_index", [-1, 2])
def test_classes_that_are_not_there_are_refused(class_index: int) -> None:
    with pytest.raises(InputError, match="one clip and one of its classes"):
        viz.class_activation(by_hand(), clip_by_hand(), class_index, STAGE)
    with pytest.raises(InputError, match="one clip and one of its classes"):
        viz.class_activation(by_hand(), clip_by_hand().repeat(2, 1, 1, 1, 1), 0, STAGE)


def test_where_maps_come_from() -> None:
    assert spread(2, 4).tolist() == [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]
    assert spread(4, 2).tolist() == [[1, 0], [1, 0], [0, 1], [0, 1]]
    slow = torch.tensor([[1.0, 0, 0, 0]])
    fast = torch.eye(4)
    assert carried(1, slow, fast, 4).tolist() == slow.tolist()
    # A second slow map is there only because the fast pathway has one: it comes from the later half of the fast maps.
    assert carried(2, slow, fast, 4).tolist() == [[1, 0, 0, 0], [0, 0, 0.5, 0.5]]
    assert carried(2, None, fast, 4).tolist() == spread(2, 4).tolist()


def test_sites_of_both_pathways_are_told_apart() -> None:
    model = lively(atfr.create_model("slowfast_8x8_r18", num_classes=2))
    last = last_layers(model)
    assert last == {"fast": "blocks.4.multipathway_blocks.1", "slow": "blocks.4.multipathway_blocks.0"}
    assert pathway_of("blocks.1.multipathway_blocks.0.res_blocks.1", last) == "slow"
    assert pathway_of("blocks.1.multipathway_blocks.1.sgs", last) == "fast"
    assert pathway_of("anything", {"": "layer4"}) == ""
    atfr.adapt_(model, after="res2")
    with viz.watch(lively(model)) as watched, torch.no_grad():
        model(torch.rand(1, 3, 16, 32, 32) * torch.linspace(0.1, 3, 16)[:, None, None])
    assert watched.pathways == {"res2.fast": "fast", "res2.slow": "slow"}
    for site, matrix in origins(watched, 16).items():
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(matrix)))
        width = 1 if site == "res2.fast" else 4  # a slow map stands for 4 frames
        by_map = matrix.view(len(matrix), -1, width)
        assert (by_map == by_map[..., :1]).all()
