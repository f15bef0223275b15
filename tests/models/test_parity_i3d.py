"""I3D-50 against PyTorchVideo's: the same state dict, the same logits and gradients, in float64."""

import warnings
from functools import partial

import pytest
import torch

import atfr
from atfr.models import create_model
from atfr.models.i3d import HalveTime
from tests.models.narrow import narrow
from tests.models.randomise import alike
from tests.models.test_parity_r2plus1d import assert_logits_are_those_of, assert_training_step_is_that_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.hub.resnet import i3d_r50


@pytest.mark.parametrize(
    ("clip_shape", "left"),
    [((8, 64, 64), (4, 2, 2)), ((5, 40, 33), (2, 2, 2)), ((2, 32, 32), (1, 1, 1))],
)
def test_logits_are_those_of_pytorchvideo(clip_shape: tuple, left: tuple) -> None:
    theirs = partial(i3d_r50, model_num_class=7, head_pool_kernel_size=left)
    assert_logits_are_those_of(*alike(theirs, partial(create_model, "i3d_50", num_classes=7)), *clip_shape)


@pytest.mark.filterwarnings("ignore:'saved_variables' is deprecated:DeprecationWarning")
def test_training_step_is_that_of_pytorchvideo() -> None:
    theirs = partial(i3d_r50, model_num_class=7, head_pool_kernel_size=(2, 1, 1), dropout_rate=0.0)
    ours = partial(create_model, "i3d_50", num_classes=7, dropout=0.0)
    assert_training_step_is_that_of(*alike(theirs, ours), 4, 32, 32)


@pytest.mark.parametrize(("frames", "halved"), [(1, 1), (2, 1), (3, 1), (8, 4)])
def test_the_temporal_pool_leaves_a_single_frame_as_it_is(frames: int, halved: int) -> None:
    features = torch.randn(2, 3, frames, 4, 4)
    pooled = HalveTime()(features)
    assert pooled.shape == (2, 3, halved, 4, 4)
    assert torch.equal(pooled[:, :, 0], features[:, :, :2].amax(2))


def test_a_clip_of_one_active_bin_passes_the_temporal_pool() -> None:
    torch.manual_seed(0)
    model = narrow("i3d_50", num_classes=5).eval()
    clips = torch.randn(2, 3, 4, 16, 16)
    atfr.adapt_(model, after="res2", num_bins=1)
    with torch.no_grad(), atfr.record(model) as trace:
        logits = torch.cat([model(clips), model(clips[:1])])  # one clip alone is a map long in all
    assert trace.active_bins.tolist() == [1, 1, 1]
    assert logits.isfinite().all()
    torch.testing.assert_close(logits[0], logits[2])
