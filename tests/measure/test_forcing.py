"""Clips keep as many maps as asked for, and SGS does the rest of its work as ever."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import atfr
from atfr.errors import InputError
from atfr.measure.forcing import at_every_site, forced, ragged
from atfr.samplers import SimilarityGuidedSampling

CHOICES = st.integers(1, 16).flatmap(
    lambda frames: st.tuples(
        st.just(frames), st.integers(1, 20), st.lists(st.integers(1, frames), min_size=1, max_size=4)
    )
)


@settings(max_examples=40, deadline=None)
@given(CHOICES, st.sampled_from(["linear", "linear_mean", "kronecker"]), st.sampled_from(["magnitude", "time"]))
def test_each_clip_keeps_what_was_asked_for(choice: tuple[int, int, list[int]], kernel: str, order: str) -> None:
    frames, bins, kept = choice
    kept = [min(a, bins) for a in kept]
    layer = SimilarityGuidedSampling(4, num_bins=bins, kernel=kernel, order=order)
    model = torch.nn.Sequential(layer)
    maps = torch.rand(len(kept), 4, frames, 2, 2) + 0.1
    with forced(model, {"0": kept}), atfr.record(model) as trace, torch.no_grad():
        packed = model(maps)
    assert list(packed.lengths) == kept
    assert trace.active_bins.tolist() == kept
    if kernel == "linear":  # every map counts in full: nothing is lost
        torch.testing.assert_close(packed.plain().sum(2), maps.sum((0, 2))[None])


def test_the_similarity_network_runs_and_the_network_is_as_before() -> None:
    model = atfr.create_model("resnet3d_18", num_classes=3).eval()
    atfr.adapt_(model, after="res2")
    clips = torch.rand(2, 3, 8, 32, 32)
    calls: list[int] = []
    model.res2.sgs.similarity.output.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        before = model(clips)
        with forced(model, {"res2": (1, 8)}):
            other = model(clips)
        after = model(clips)
    assert len(calls) == 3
    assert torch.equal(before, after)
    assert not torch.equal(before, other)


def test_slowfast_keeps_the_same_share_in_both_pathways() -> None:
    assert at_every_site((32, 12, 1), {"res2.fast": 32, "res2.slow": 8}) == {
        "res2.fast": (32, 12, 1),
        "res2.slow": (8, 3, 1),
    }


def test_ragged_batches_have_the_mean_and_stay_within_the_clip() -> None:
    assert ragged(6, 1, 13) == (6,)
    assert sum(ragged(6, 32, 13)) == 6 * 32
    assert len(set(ragged(6, 8, 13))) > 4
    assert set(ragged(1, 8, 2)) == {1, 2}


@pytest.mark.parametrize(
    ("options", "kept", "message"),
    [
        ({}, {"res2": (9,)}, "a clip of 8 maps in 8 bins cannot keep 9: give each 1 to 8"),
        ({"num_bins": 4}, {"res2": (5,)}, "in 4 bins cannot keep 5"),
        ({}, {"res2": (1, 2)}, r"expected active bins for 1 clips, got \(1, 2\)"),
        ({}, {"res3": (1,)}, "expected active bins for the sites"),
        ({"top_edge": "paper"}, {"res2": (1,)}, "top_edge='center'"),
        ({"temporal_block": 4}, {"res2": (1,)}, "over whole clips"),
        ({"sampler": "uniform", "active_bins": 4}, {"res2": (1,)}, "where SGS compares magnitudes"),
        ({"similarity": "angular", "embedding_dim": 3}, {"res2": (1,)}, "where SGS compares magnitudes"),
    ],
)
def test_what_cannot_be_forced(options: dict, kept: dict, message: str) -> None:
    model = atfr.create_model("resnet3d_18", num_classes=3).eval()
    atfr.adapt_(model, after="res2", **options)
    with pytest.raises(InputError, match=message), torch.no_grad(), forced(model, kept):
        model(torch.rand(1, 3, 8, 32, 32))
    assert not model.res2.sgs._forward_hooks
