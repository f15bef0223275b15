"""Every family on a GPU against the CPU in float64: results, gradients, clips alone and together, half precision.

`make test-cuda` runs these, and fails where there is no GPU. `ATFR_CUDA_TESTS_ON=cpu` runs them on the CPU, which
proves no more than that they can run.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.data.samples import render_samples
from atfr.evaluate.predict import predict
from atfr.evaluate.task import Task
from atfr.measure.forcing import forced
from atfr.measure.saving import maps_that_come
from atfr.models import VideoModel
from atfr.video.spec import ClipSpec

DEVICE = torch.device(os.environ.get("ATFR_CUDA_TESTS_ON", "cuda"))
HERE = DEVICE.type != "cuda" or torch.cuda.is_available()
pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not HERE, reason="NOT TESTED: networks on a GPU, there is none")]

FAMILIES = ["resnet3d_18", "x3d_xs", "r2plus1d_18", "r2plus1d_50", "i3d_50", "i3d_inception", "slowfast_8x8_r18"]
FRAMES, SIDE, CLIPS = 16, 48, 4


@pytest.fixture(autouse=True)
def exact() -> Iterator[None]:
    """Products in float32 are those of float32; as they were afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    tf32(False, False)
    yield
    tf32(*before)


def tf32(products: bool, convolutions: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = products, convolutions


def network(family: str, after: str = "res2", **options: str) -> VideoModel:
    """With SGS, batch-norm statistics of its own, and residual branches that say something."""
    torch.manual_seed(0)
    model = atfr.create_model(family, num_classes=5, dropout=0.0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    atfr.adapt_(model, after=after, **options)
    return model.eval()


def clips(count: int = CLIPS) -> Tensor:
    return torch.randn(count, 3, FRAMES, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def kept(model: VideoModel, count: int = CLIPS) -> dict[str, tuple[int, ...]]:
    """Different numbers of maps for each clip, at every site."""
    maps = maps_that_come(model, (3, FRAMES, SIDE, SIDE))
    return {site: tuple(1 + i * (n - 1) // max(count - 1, 1) for i in range(count)) for site, n in maps.items()}


def run(model: nn.Module, x: Tensor, active_bins: dict[str, tuple[int, ...]], dtype: torch.dtype) -> Tensor:
    with torch.no_grad(), forced(model, active_bins):
        return model(x.to(next(model.parameters()).device, dtype)).double().cpu()


def off(found: Tensor, expected: Tensor) -> float:
    """How far tensors lie apart, by their norms; NaN where one is not finite."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.bfloat16, 4e-2)], ids=["float32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_ragged_batch_as_on_the_cpu_in_float64_and_each_clip_alone(family, dtype, close) -> None:
    model, x = network(family), clips()
    bins = kept(model)
    expected = run(copy.deepcopy(model).double(), x, bins, torch.float64)
    there = copy.deepcopy(model).to(DEVICE, dtype)
    together = run(there, x, bins, dtype)
    assert off(together, expected) < close
    for i, clip in enumerate(x):
        alone = run(there, clip[None], {site: (n[i],) for site, n in bins.items()}, dtype)
        assert off(alone, together[i : i + 1]) < close
    fast = atfr.optimize_for_inference(there)
    assert off(run(fast, x, bins, dtype), expected) < close


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_as_on_the_cpu_in_float64(family) -> None:
    model, x = network(family), clips()
    bins, found = kept(model), []
    for device, dtype in ((torch.device("cpu"), torch.float64), (DEVICE, torch.float32)):
        one = copy.deepcopy(model).to(device, dtype)
        leaf = x.to(device, dtype).requires_grad_()
        with forced(one, bins):
            one(leaf).square().sum().backward()
        own = {name: p.grad for name, p in one.named_parameters() if p.grad is not None}
        found.append({name: grad.double().cpu() for name, grad in (own | {"clips": leaf.grad}).items()})
    assert found[0].keys() == found[1].keys()
    largest = max(grad.norm() for grad in found[0].values())
    for name, expected in found[0].items():
        # a ReLU, or the larger of two, may fall the other way in float32
        assert (found[1][name] - expected).norm() <= 1e-2 * expected.norm() + 1e-5 * largest, name


def test_bins_do_not_depend_on_tf32() -> None:
    layer = atfr.SimilarityGuidedSampling(64).to(DEVICE)
    maps, found = torch.rand(4, 64, 32, 12, 12, generator=torch.Generator().manual_seed(2)).to(DEVICE), []
    for allowed in (False, True):
        tf32(allowed, allowed)
        with torch.no_grad(), atfr.record(layer) as trace:
            layer(maps)
        (site,) = trace.sites.values()
        found.append((site.assignment, site.weights))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("kernel", ["linear", "keep"])
def test_maps_are_merged_in_one_order(kernel) -> None:
    """To the last bit the same again, and whatever else is in the batch."""
    layer = atfr.SimilarityGuidedSampling(64, num_bins=3, kernel=kernel).to(DEVICE, torch.bfloat16)
    maps = torch.rand(8, 64, 32, 12, 12, generator=torch.Generator().manual_seed(2)).to(DEVICE, torch.bfloat16)
    maps = maps.contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad():
        whole, again, part = layer(maps), layer(maps), layer(maps[:3])
    assert torch.equal(whole.plain(), again.plain())
    assert torch.equal(whole.plain()[:, :, : part.plain().shape[2]], part.plain())


@pytest.mark.parametrize("family", ["x3d_xs", "resnet3d_18", "slowfast_8x8_r18"])
def test_a_step_under_autocast(family) -> None:
    """Sums that decide bins are in float32 at least; the loss and its gradients are finite, and near those without."""
    model, x = network(family).to(DEVICE), clips().to(DEVICE)
    bins, losses = kept(model), []
    labels = torch.arange(CLIPS, device=DEVICE)
    for enabled in (False, True):
        model.zero_grad()
        with forced(model, bins), torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
            loss = nn.functional.cross_entropy(model(x).float(), labels)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        losses.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


@pytest.mark.parametrize("options", [{}, {"mode": "reduce-overhead"}], ids=["compiled", "cuda-graphs"])
@pytest.mark.parametrize("family", ["x3d_xs", "resnet3d_18"])
def test_compiled_networks_as_on_the_cpu_in_float64(family, options) -> None:
    """Ragged batches in training and in inference, one after the other, where each graph runs more than once."""
    options = options if DEVICE.type == "cuda" else {"backend": "aot_eager"}
    model = network(family, "input", sampler="change")
    reference = copy.deepcopy(model).double()
    there = copy.deepcopy(model).to(DEVICE)
    compiled = atfr.compile(there, **options)
    batches = [clips().index_fill(2, torch.arange(still, FRAMES), 0.5) for still in (3, 12, 3)]
    for training in (False, True):
        for network_ in (reference, compiled):
            network_.train(training)
        for batch in batches:
            found = []
            for one, x in ((reference, batch.double()), (compiled, batch.to(DEVICE))):
                one.zero_grad()
                with torch.set_grad_enabled(training):
                    logits = one(x)
                if training:
                    logits.square().sum().backward()
                found.append(logits.detach().double().cpu())
            assert off(found[1], found[0]) < (1e-2 if training else 1e-4)
            if training:
                ours, theirs = (dict(one.named_parameters()) for one in (there, reference))
                grads = {name: p.grad for name, p in theirs.items() if p.grad is not None}
                largest = max(grad.norm() for grad in grads.values())
                for name, expected in grads.items():
                    grad = ours[name].grad.double().cpu()
                    assert (grad - expected).norm() <= 5e-2 * expected.norm() + 1e-4 * largest, name


def test_videos_are_predicted_as_on_the_cpu(tmp_path) -> None:
    root = render_samples(tmp_path / "samples", clips_per_class_train=1, clips_per_class_test=1)
    videos = sorted((root / "test").rglob("*.mp4"))[:4]
    model = network("resnet3d_18")
    task = Task(tuple("abcde"), ClipSpec(frames=FRAMES, stride=1, size=32, resize=32, jitter=(32, 36)))
    here = list(predict(model, videos, task))
    there = list(predict(model.to(DEVICE), videos, task))
    for one, other in zip(there, here, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-4)
        assert one.active_bins["res2"] == other.active_bins["res2"]
