"""What holds for any clip: the number of maps, permutations, scale, batch mates, and what a NaN may touch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.sgs import KERNELS
from tests.samplers.build import chosen_layer, embed, known_clips, noise, run

OPTIONS = st.fixed_dictionaries(
    {
        "kernel": st.sampled_from(KERNELS),
        "top_edge": st.sampled_from(["center", "paper"]),
        "order": st.sampled_from(["magnitude", "time"]),
        "num_bins": st.integers(1, 12),
    }
)


@st.composite
def batches(draw: st.DrawFn, clips: int | None = None) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Features, an embedding whose magnitudes are away from the edges, and options."""
    options = draw(OPTIONS)
    frames = draw(st.integers(1, 10))
    count = draw(st.integers(1, 4)) if clips is None else clips
    known = [draw(known_clips(frames, options["num_bins"], options["top_edge"])) for _ in range(count)]
    seed = draw(st.integers(0, 2**16))
    return noise(count, 3, frames, 2, 2, seed=seed), embed([k.magnitude for k in known], 4, seed), options


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_between_one_and_min_of_bins_and_frames(batch):
    features, embedding, options = batch
    maps, site = run(chosen_layer(embedding, 3, **options), features)
    frames = features.shape[2]
    assert site.assignment.shape == site.weights.shape == (len(features), frames)
    for i, clip in enumerate(maps):
        active = clip.shape[1]
        assert 1 <= active <= min(frames, options["num_bins"])
        assert site.active_bins[i] == active
        used = set(site.assignment[i].tolist()) - {-1}
        assert len(used) == active
        assert used <= set(range(options["num_bins"]))
        assert torch.equal(site.assignment[i] >= 0, site.weights[i] > 0)


@settings(max_examples=40, deadline=None)
@given(magnitude=st.lists(st.floats(0, 1e4, width=32), min_size=1, max_size=40), options=OPTIONS)
def test_the_bounds_hold_on_edges_too(magnitude, options):
    embedding = torch.tensor(magnitude).view(1, -1, 1)
    maps, site = run(chosen_layer(embedding, 1, **options), noise(1, 1, len(magnitude), 1, 1))
    assert 1 <= site.active_bins[0] <= min(len(magnitude), options["num_bins"])
    assert maps[0].isfinite().all()
    assert site.assignment.max() < options["num_bins"]
    assert site.assignment.min() >= -1


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_weights_and_assignment_explain_the_maps(batch):
    features, embedding, options = batch
    options["order"] = "magnitude"
    maps, site = run(chosen_layer(embedding, 3, **options), features)
    for i, clip in enumerate(maps):
        active = sorted(set(site.assignment[i].tolist()) - {-1})
        for a, b in enumerate(active):
            share = site.weights[i] * (site.assignment[i] == b)
            torch.testing.assert_close(clip[:, a], (features[i] * share.view(1, -1, 1, 1)).sum(1), rtol=1e-4, atol=1e-5)
        if options["kernel"] == "kronecker":
            torch.testing.assert_close(site.weights[i].sum(), torch.tensor(float(len(active))))


@settings(max_examples=40, deadline=None)
@given(batch=batches())
def test_a_clip_does_not_see_its_batch_mates(batch):
    features, embedding, options = batch
    together, site = run(chosen_layer(embedding, 3, **options), features)
    for i in range(len(features)):
        (alone,), single = run(chosen_layer(embedding[i : i + 1], 3, **options), features[i : i + 1])
        torch.testing.assert_close(alone, together[i], rtol=1e-6, atol=1e-6)
        assert torch.equal(single.assignment[0], site.assignment[i])
        torch.testing.assert_close(single.weights[0], site.weights[i], rtol=1e-6, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(batch=batches(), seed=st.integers(0, 2**16))
def test_permuting_frames_permutes_the_trace_and_keeps_the_maps(batch, seed):
    features, embedding, options = batch
    options["order"] = "magnitude"
    shuffle = torch.randperm(features.shape[2], generator=torch.Generator().manual_seed(seed))
    maps, site = run(chosen_layer(embedding, 3, **options), features)
    moved, moved_site = run(chosen_layer(embedding[:, shuffle], 3, **options), features[:, :, shuffle])
    assert torch.equal(moved_site.assignment, site.assignment[:, shuffle])
    torch.testing.assert_close(moved_site.weights, site.weights[:, shuffle], rtol=1e-5, atol=1e-6)
    for a, b in zip(maps, moved, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(batch=batches(), power=st.integers(-20, 20), factor=st.floats(0.5, 2.0))
def test_the_scale_of_the_embedding_does_not_matter(batch, power, factor):
    features, embedding, options = batch
    maps, site = run(chosen_layer(embedding, 3, **options), features)
    for scale, tolerance in ((2.0**power, 1e-6), (factor, 1e-4)):
        scaled, scaled_site = run(chosen_layer(embedding * scale, 3, **options), features)
        assert torch.equal(scaled_site.assignment, site.assignment)
        for a, b in zip(maps, scaled, strict=True):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@settings(max_examples=40, deadline=None)
@given(batch=batches(clips=3), broken=st.integers(0, 2))
def test_a_nan_stays_in_its_clip(batch, broken):
    features, embedding, options = batch
    maps, site = run(chosen_layer(embedding, 3, **options), features)
    bad_features, bad_embedding = features.clone(), embedding.clone()
    bad_features[broken] = torch.nan
    bad_embedding[broken, -1] = torch.nan
    bad_maps, bad_site = run(chosen_layer(bad_embedding, 3, **options), bad_features)
    assert bad_maps[broken].isnan().all()
    assert bad_maps[broken].shape[1] >= 1
    for i in {0, 1, 2} - {broken}:
        assert torch.equal(bad_maps[i], maps[i])
        assert torch.equal(bad_site.assignment[i], site.assignment[i])
        assert torch.equal(bad_site.weights[i], site.weights[i])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("where", ["features", "embedding", "infinite embedding"])
def test_a_partial_nan_reaches_the_output(kernel, where):
    """One bad frame in four must not vanish because its bin is dropped: the clip's result has to say so."""
    features, embedding = noise(2, 3, 4, 2, 2), embed([[1.0, 2.1, 2.9, 4.2]] * 2, 4, seed=1)
    want, _ = run(chosen_layer(embedding, 3, kernel=kernel), features)
    if where == "features":
        features[0, :, 3] = torch.nan
    else:
        embedding[0, 3] = torch.nan if where == "embedding" else torch.inf
    maps, _ = run(chosen_layer(embedding, 3, kernel=kernel), features)
    assert not maps[0].isfinite().all()
    assert torch.equal(maps[1], want[1])
