"""A clip's logits and gradients do not depend on its batch mates, for torchvision's networks and our own."""

from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import AdaptError, AtfrError
from tests.models.narrow import narrow, narrowed, short, shorter
from tests.reference import sgs as reference

FRAMES, BINS = 8, 12
NETWORKS = [
    ("r3d_18", "layer1"),
    ("mc3_18", "layer1"),
    ("r2plus1d_18", "layer1"),
    ("resnet3d_18", "res2"),
    ("x3d_xs", "stem"),
]
KERNELS = ["linear", "linear_mean"]
CASES = [(*network, KERNELS[i % 2]) for i, network in enumerate(NETWORKS)]


def build(name: str) -> nn.Module:
    """A network of 5 classes, for this test alone."""
    return copy.deepcopy(network(name))


@functools.cache
def network(name: str) -> nn.Module:
    """A network whose batch norm has statistics of its own; made once, as drawing 30 million numbers takes a while."""
    torch.manual_seed(0)
    if name in ("r3d_18", "mc3_18", "r2plus1d_18"):
        from torchvision.models import video

        model = shorter(narrowed(lambda: getattr(video, name)(num_classes=5)))
    else:
        with short():
            model = narrow(name, num_classes=5)
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.8, 1.25, generator=generator)
            with torch.no_grad():  # zero-initialised residual branches would hide their input
                module.weight.uniform_(0.8, 1.25, generator=generator)
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model.eval()


def clips() -> Tensor:
    """A still clip, one that changes all the time, one that stops, one that brightens: different redundancy."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(4, 3, FRAMES, 16, 16, generator=generator)
    x[0] = x[0, :, :1]
    x[2, :, 3:] = x[2, :, 3:4]
    ramp = torch.linspace(0, 2, FRAMES)
    x[1] *= ramp[torch.randperm(FRAMES, generator=generator)].view(1, -1, 1, 1)
    x[3] = x[3, :, :1] * ramp.view(1, -1, 1, 1)
    return x


def adapted(name: str, after: str, kernel: str, num_bins: int | None = BINS) -> tuple[nn.Module, nn.Module]:
    """The network with a similarity network that tells frames apart; returns the network and its layer."""
    model = build(name)
    atfr.adapt_(model, after=after, kernel=kernel, num_bins=num_bins)
    (layer,) = (m for m in model.modules() if isinstance(m, atfr.SimilarityGuidedSampling))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in layer.similarity.parameters():
            parameter.normal_(generator=generator)
            if parameter.dim() == 1:
                parameter.zero_()
    return model, layer


def freeze_batch_norm(model: nn.Module) -> nn.Module:
    """Training mode, batch norm with its running statistics: whatever else the mode changes, clips stay apart."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.eval()
    return model


def run(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, object, Tensor]:
    """Logits, trace and embedding of one forward pass."""
    seen = []
    handle = layer.similarity.register_forward_hook(lambda module, args, output: seen.append(output.detach()))
    with atfr.record(model) as trace:
        logits = model(x)
    handle.remove()
    (embedding,) = seen
    return logits, trace, embedding


def distance_from_edges(embedding: Tensor, num_bins: int) -> float:
    """How near, in half widths, any frame comes to an edge between bins."""
    nearest = np.inf
    for z in embedding.double().numpy():
        delta = reference.magnitudes(z)
        gamma = reference.half_width(max(delta), num_bins, "center")
        for d in delta:
            position = d / (2 * gamma)
            nearest = min(nearest, 2 * abs(position - round(position)))
    return nearest


@pytest.mark.parametrize(("name", "after", "kernel"), CASES)
def test_logits_do_not_depend_on_batch_mates(name, after, kernel):
    """In evaluation, and in training with frozen batch norm; and the trace is what the oracle says of the embedding."""
    model, layer = adapted(name, after, kernel)
    x = clips()
    with torch.no_grad():
        together, trace, embedding = run(model, layer, x)
        check_trace(trace, embedding, kernel)
        assert distance_from_edges(embedding, BINS) > 1e-4, "choose other seeds: a frame lies on an edge"
        active = trace.active_bins.tolist()
        assert max(active) - min(active) >= 2, active
        assert together.shape == (4, 5)
        assert type(together) is Tensor
        scale = together.abs().max().item()
        assert together.std(0).mean() > 1e-2 * scale  # clips differ by far more than the tolerance
        for rows in ([0], [1], [3], [2, 0], [3, 1, 2]):
            logits, part, _ = run(model, layer, x[rows])
            assert torch.equal(part.active_bins, trace.active_bins[rows])
            torch.testing.assert_close(logits, together[rows], rtol=1e-4, atol=1e-4 * scale)
        freeze_batch_norm(model)
        torch.testing.assert_close(model(x), together, rtol=1e-4, atol=1e-4 * scale)
        torch.testing.assert_close(model(x[[1]]), together[[1]], rtol=1e-4, atol=1e-4 * scale)


def check_trace(trace: object, embedding: Tensor, kernel: str) -> None:
    (site,) = trace.sites.values()
    for i, z in enumerate(embedding):
        clip = reference.sample(np.zeros((1, len(z), 1, 1)), z.numpy(), BINS, kernel)
        assert site.active_bins[i] == clip.active_bins
        assert site.assignment[i].tolist() == clip.assignment.tolist()
        rounding = 1e-5 / (reference.MEAN_FLOOR if kernel == "linear_mean" else 1)  # of float32 magnitudes
        np.testing.assert_allclose(site.weights[i].numpy(), clip.weights, rtol=1e-3, atol=rounding)


@pytest.mark.parametrize(("name", "after", "kernel"), CASES)
def test_gradients_are_the_sum_over_clips(name, after, kernel):
    model, layer = adapted(name, after, kernel)
    freeze_batch_norm(model).double()  # in float32 a frame alone near an edge multiplies rounding a thousandfold
    x = clips().double()
    direction = torch.randn(4, 5, generator=torch.Generator().manual_seed(4)).double()

    def gradients(rows: list[int]) -> tuple[list[Tensor], Tensor]:
        model.zero_grad()
        batch = x[rows].requires_grad_()
        (model(batch) * direction[rows]).sum().backward()
        return [p.grad.clone() for p in model.parameters()], batch.grad

    rows = [3, 0, 1]
    together, inputs = gradients(rows)
    alone = [gradients([i]) for i in rows]
    for i, (name_, _) in enumerate(model.named_parameters()):
        want = torch.stack([grads[i] for grads, _ in alone]).sum(0)
        scale = max(g[i].abs().max().item() for g, _ in alone)
        torch.testing.assert_close(together[i], want, rtol=1e-7, atol=1e-9 * scale, msg=lambda m, n=name_: f"{n}: {m}")
    for i in range(3):
        want = alone[i][1][0]
        torch.testing.assert_close(inputs[i], want, rtol=1e-7, atol=1e-9 * want.abs().max().item())
    for name_, parameter in layer.similarity.named_parameters():
        assert parameter.grad.abs().max() > 0, name_


@pytest.mark.parametrize(("name", "after"), NETWORKS)
def test_training_statistics_see_the_real_frames_only(name, after):
    """One training step: finite, every parameter reached, running statistics moved."""
    model, layer = adapted(name, after, "linear_mean")
    model.train()
    logits, trace, _ = run(model, layer, clips())
    assert len(set(trace.active_bins.tolist())) >= 2
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 3])).backward()
    for name_, parameter in model.named_parameters():
        assert parameter.grad is not None, name_
        assert parameter.grad.isfinite().all(), name_
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            assert module.num_batches_tracked == 1


@pytest.mark.parametrize("name", ["r3d_18", "resnet3d_18", "x3d_xs"])
def test_a_nan_stays_in_its_clips_logits(name):
    model, layer = adapted(name, "layer1" if name == "r3d_18" else "res2", "linear_mean")
    x = clips()
    with torch.no_grad():
        want, _, _ = run(model, layer, x)
        x[1, :, 5, 8, 8] = torch.nan
        got, _, _ = run(model, layer, x)
    assert not got[1].isfinite().any()
    rows = [0, 2, 3]
    torch.testing.assert_close(got[rows], want[rows], rtol=1e-4, atol=1e-4 * want.abs().max().item())


@pytest.mark.parametrize(("name", "after"), NETWORKS)
def test_adapt_and_restore(name, after):
    model = build(name)
    x = clips()
    with torch.no_grad():
        logits = model(x)
    state, parameters = copy.deepcopy(model.state_dict()), dict(model.named_parameters())

    atfr.adapt_(model, after=after, kernel="linear_mean")
    in_it = dict(model.named_parameters())
    for key, value in parameters.items():  # the same objects under the same names: optimisers and checkpoints hold
        assert in_it[key] is value
    now = model.state_dict()
    assert [key for key in now if key in state] == list(state)
    assert len(now) > len(state)
    for key, value in state.items():
        assert torch.equal(now[key], value), key
    with torch.no_grad():
        assert not torch.equal(model(x), logits)

    atfr.restore_(model)
    now = model.state_dict()
    assert list(now) == list(state)
    for key, value in state.items():
        assert torch.equal(now[key], value), key
    assert not any(isinstance(m, atfr.SimilarityGuidedSampling) for m in model.modules())
    with torch.no_grad():
        assert torch.equal(model(x), logits)
    atfr.adapt_(model, after=after)  # and again
    atfr.restore_(model)
    with torch.no_grad():
        assert torch.equal(model(x), logits)


@pytest.mark.parametrize(("name", "after"), [("r3d_18", "layer1"), ("resnet3d_18", "res2"), ("x3d_xs", "res2")])
@pytest.mark.parametrize("again", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_of_adapted_networks(name, after, again):
    model, layer = adapted(name, after, "linear_mean")
    x = clips()
    with torch.no_grad():
        want, trace, _ = run(model, layer, x)
        other = again(model)
        with atfr.record(other) as other_trace:
            got = other(x)
        assert torch.equal(got, want)
        assert torch.equal(other_trace.active_bins, trace.active_bins)
        for parameter in layer.parameters():  # the copy has a layer of its own
            parameter.zero_()
        assert torch.equal(other(x), want)
        atfr.restore_(other)
        assert torch.equal(other(x), build(name)(x))


def test_an_adapted_state_dict_loads_into_another_adapted_network():
    first, layer = adapted("r3d_18", "layer1", "linear")
    second = build("r3d_18")
    atfr.adapt_(second, after="layer1", kernel="linear", num_bins=BINS)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        assert torch.equal(second(clips()), run(first, layer, clips())[0])


@pytest.mark.parametrize("name", ["r3d_18", "x3d_xs"])
def test_fewer_bins_at_inference(name):
    model, layer = adapted(name, "layer1" if name == "r3d_18" else "res2", "linear_mean", num_bins=None)
    x = clips()
    for num_bins in (1, 3, 24):
        atfr.set_num_bins_(model, num_bins)
        with torch.no_grad():
            together, trace, _ = run(model, layer, x)
            assert trace.active_bins.max() <= min(num_bins, FRAMES)
            alone = torch.cat([model(clip[None]) for clip in x])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4 * together.abs().max().item())


@pytest.mark.parametrize("name", ["r3d_18", "x3d_xs"])
def test_bfloat16_autocast(name):
    model, layer = adapted(name, "layer1" if name == "r3d_18" else "res2", "linear_mean")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits, trace, _ = run(model, layer, clips())
    (site,) = trace.sites.values()
    assert logits.isfinite().all()
    assert logits.shape == (4, 5)
    assert site.weights.dtype == torch.float32


@pytest.mark.parametrize(("name", "after"), [("r3d_18", "layer1"), ("x3d_xs", "res2")])
def test_adapting_twice_is_refused(name, after):
    model = build(name)
    atfr.adapt_(model, after=after)
    keys = list(model.state_dict())
    for stage in (after, "layer2" if name == "r3d_18" else "res3"):
        with pytest.raises(AdaptError, match="restore_"):
            atfr.adapt_(model, after=stage)
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    ("name", "after", "hint"),
    [
        ("r3d_18", "layer", "layer1|layer2|layer3|layer4"),
        ("r3d_18", "res2", "layer1|stem"),
        ("x3d_xs", "rse2", "res2"),
        ("x3d_xs", "", ""),
    ],
)
def test_unknown_stages_are_refused_with_close_names(name, after, hint):
    model = build(name)
    keys = list(model.state_dict())
    with pytest.raises(AdaptError) as error:
        atfr.adapt_(model, after=after)
    assert repr(after) in str(error.value)
    assert any(word in str(error.value) for word in hint.split("|"))
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("after", ["fc", "layer4.1.conv1.2.missing"])
def test_places_without_a_clip_are_refused(after):
    model = build("r3d_18")
    keys = list(model.state_dict())
    with pytest.raises(AdaptError):
        atfr.adapt_(model, after=after)
    assert list(model.state_dict()) == keys


def test_restoring_what_was_not_adapted_is_refused():
    model = build("r3d_18")
    with pytest.raises(AdaptError):
        atfr.restore_(model)
    with pytest.raises(AdaptError):
        atfr.set_num_bins_(model, 4)


def test_wrapped_networks_are_refused():
    model = build("r3d_18")
    with pytest.raises(AdaptError, match="DataParallel"):
        atfr.adapt_(nn.DataParallel(model), after="module.layer1")
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(AdaptError, match="DistributedDataParallel"):
            atfr.adapt_(wrapped, after="module.layer1")
    finally:
        torch.distributed.destroy_process_group()
    assert not any(isinstance(m, atfr.SimilarityGuidedSampling) for m in model.modules())


def test_a_bad_option_leaves_the_network_as_it_was():
    model = build("r3d_18")
    keys = list(model.state_dict())
    x = clips()
    with torch.no_grad():
        logits = model(x)
        for options in ({"kernel": "liner"}, {"num_bins": 0}, {"top_edge": "centre"}, {"order": "tim"}):
            with pytest.raises(AtfrError):
                atfr.adapt_(model, after="layer1", **options)
            assert list(model.state_dict()) == keys
            assert torch.equal(model(x), logits)
