"""SlowFast: published costs, inputs, pathways of different lengths behind SGS, and non-local blocks within clips."""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import InputError
from atfr.models import VideoModel
from atfr.models.nonlocal_block import NonLocal, attend
from atfr.models.slowfast import SlowFast, Variant
from atfr.ragged import PackedClips
from atfr.samplers import SimilarityGuidedSampling
from tests.models.narrow import narrowed, short

NAMES = list(SlowFast.variants)
SMALL = "slowfast_8x8_r18"
STAGES = ["stem", "res2", "res3", "res4", "res5"]


class Tiny(SlowFast):
    """Few blocks, with non-local ones behind them."""

    variants = {"tiny": Variant(frames=32, alpha=4, depths=(1, 1, 2, 1), lateral_kernel=5, nonlocal_behind=(0, 1))}  # noqa: RUF012


@functools.cache
def network(name: str = SMALL) -> SlowFast:
    """A network of 5 classes in float64 whose batch norms and residual branches have something to say."""
    torch.manual_seed(0)
    with short():
        model = narrowed(lambda: (Tiny if name == "tiny" else SlowFast)(name, num_classes=5)).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.1)
    return model


@functools.cache
def on_meta(name: str) -> VideoModel:
    with torch.device("meta"):
        return atfr.create_model(name)


def clips(frames: int = 12) -> Tensor:
    """Frames that differ, frames of which half are bright, frames that brighten."""
    torch.manual_seed(1)
    brightness = torch.ones(3, 1, frames, 1, 1, dtype=torch.float64)
    brightness[0] *= torch.rand(frames).view(1, -1, 1, 1) * 40
    brightness[1, :, frames // 2 :] *= 30
    brightness[2] *= torch.arange(1, frames + 1).view(1, -1, 1, 1)
    return torch.randn(3, 3, frames, 24, 24, dtype=torch.float64) * brightness


@contextmanager
def sgs_behind(model: SlowFast, *sites: str) -> Iterator[dict[str, tuple[int, ...]]]:
    """SGS behind submodules for a while; tells the lengths that each of them made of its clips."""
    lengths: dict[str, tuple[int, ...]] = {}
    handles = []
    for site in sites:
        paths = model.stage_paths[site]
        for path in (paths,) if isinstance(paths, str) else paths:
            module = model.get_submodule(path)
            channels = [m for m in module.modules() if isinstance(m, nn.BatchNorm3d)][-1].num_features
            layer = SimilarityGuidedSampling(channels, kernel="linear_mean").double()

            def merge(_module: nn.Module, _args: object, output: Tensor, layer=layer, path=path) -> Tensor:
                merged = layer(output)
                lengths[path] = merged.lengths
                return merged

            handles.append(module.register_forward_hook(merge))
    try:
        yield lengths
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("name", "frames", "size", "expected", "tolerance"),
    [
        ("slowfast_4x16_r50", 32, 256, 36.1, 0.001),
        ("slowfast_8x8_r18", 32, 256, 40.4, 0.001),
        ("slowfast_8x8_r18", 32, 224, 30.9, 0.002),
        ("slowfast_8x8_r50", 32, 256, 65.71, 0.0002),
        # by affinities first, as one would expect the published count, non-local blocks make it 117.8 and 242.0
        ("slowfast_8x8_r101_nl", 32, 256, 116, 0.01),
        ("slowfast_16x8_r101_nl", 64, 256, 234, 0.01),
    ],
)
def test_multiply_adds_are_the_published_ones(
    name: str, frames: int, size: int, expected: float, tolerance: float
) -> None:
    cost = atfr.clip_cost(on_meta(name), (3, frames, size, size))
    assert cost.static / 1e9 == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize(("name", "millions"), [("slowfast_4x16_r50", 34.48), ("slowfast_8x8_r50", 34.57)])
def test_parameters_are_the_published_ones(name: str, millions: float) -> None:
    assert sum(p.numel() for p in on_meta(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_named_fast_pathway_first(name: str) -> None:
    model = on_meta(name)
    assert type(model) is SlowFast
    assert model.clip_shape == (3, 64 if "16x8" in name else 32, 224, 224)
    assert list(model.stage_paths)[:5] == STAGES
    assert list(model.stage_paths)[5:] == [f"{stage}.{path}" for stage in STAGES for path in ("fast", "slow")]
    for i, stage in enumerate(STAGES):
        fast, slow = model.stage_paths[stage]
        assert (fast, slow) == (model.stage_paths[f"{stage}.fast"], model.stage_paths[f"{stage}.slow"])
        first_convolutions = [next(model.get_submodule(path).parameters()) for path in (fast, slow)]
        assert first_convolutions[0].numel() < first_convolutions[1].numel()
        assert fast.startswith(f"blocks.{i}.")


def test_nonlocal_blocks_stand_where_pyslowfast_places_them() -> None:
    for name in NAMES:
        places = [path for path, module in on_meta(name).named_modules() if isinstance(module, NonLocal)]
        stem = "blocks.3.multipathway_blocks.0.nonlocal_blocks"
        assert places == ([f"{stem}.{i}" for i in (6, 13, 20)] if name.endswith("nl") else [])


@pytest.mark.parametrize("name", ["slowfast_8x8_r18", "slowfast_4x16_r50"])
def test_pathways_run_at_their_own_rates(name: str) -> None:
    model, shapes = copy.deepcopy(on_meta(name)).eval(), {}
    for stage in STAGES:
        for key in (f"{stage}.fast", f"{stage}.slow"):
            model.get_submodule(model.stage_paths[key]).register_forward_hook(
                lambda _module, _args, output, key=key: shapes.__setitem__(key, tuple(output.shape[1:]))
            )
    model(torch.empty(1, 3, 32, 224, 224, device="meta"))
    slow = 32 // model.alpha
    assert shapes["stem.fast"] == (8, 32, 56, 56)
    assert shapes["stem.slow"] == (64, slow, 56, 56)
    for i, size in enumerate((56, 28, 14, 7)):
        assert shapes[f"{STAGES[i + 1]}.fast"] == (32 * 2**i, 32, size, size)
        assert shapes[f"{STAGES[i + 1]}.slow"] == (256 * 2**i, slow, size, size)


@pytest.mark.parametrize("shape", [(1, 3, 1, 8, 8), (2, 3, 5, 33, 17), (1, 3, 13, 40, 64)])
def test_any_length_and_size_is_taken(shape: tuple[int, ...]) -> None:
    for name in ("slowfast_8x8_r18", "slowfast_4x16_r50"):
        fast = torch.randn(shape, dtype=torch.float64)
        with torch.no_grad():
            logits = network(name)(fast)
            assert logits.shape == (shape[0], 5)
            assert logits.isfinite().all()
            pathways = (fast[:, :, :: network(name).alpha], fast)
            assert torch.equal(network(name)(pathways), logits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda fast: [fast], r"\[slow, fast\]; got 1 entries"),
        (lambda fast: (fast, fast, fast), r"\[slow, fast\]; got 3 entries"),
        (lambda fast: None, r"got NoneType"),
        (lambda fast: {"slow": fast, "fast": fast}, r"got dict"),
        (lambda fast: [fast, fast[:, :, ::4]], r"fast clips of shape \[2, 3, 3, 16, 16\] .* \[2, 3, 1, 16, 16\]"),
        (lambda fast: [fast[:, :, :2], fast], r"must be \[2, 3, 3, 16, 16\].*\[2, 3, 2, 16, 16\]"),
        (lambda fast: [fast[:1, :, ::4], fast], "alone"),
        (lambda fast: [fast[:, :, ::4, :8], fast], "alone"),
        (lambda fast: [fast[:, :, ::4].float(), fast], r"torch\.float32 .* with torch\.float64"),
        (lambda fast: [fast[:, :, ::4], None], "float tensor N x 3 x T x H x W, got NoneType"),
        (lambda fast: fast[0], "5-D"),
        (lambda fast: [fast[0, :, ::4], fast[0]], "5-D"),
        (lambda fast: fast[..., :7], "8 x 8 pixels"),
    ],
)
def test_other_inputs_are_refused(wrong, message: str) -> None:
    with pytest.raises(InputError, match=message):
        network()(wrong(torch.randn(2, 3, 9, 16, 16, dtype=torch.float64)))


def test_a_new_network_starts_with_empty_residual_branches() -> None:
    torch.manual_seed(0)
    block = SlowFast(SMALL).eval().get_submodule("blocks.2.multipathway_blocks.0").res_blocks[1]
    features = torch.randn(1, 512, 2, 4, 4)
    with torch.no_grad():
        assert torch.equal(block(features), features.relu())


@pytest.mark.parametrize("sites", [["stem"], ["res2"], ["res3"], ["res4"], ["res5"], ["res2.fast"], ["res3.slow"]])
def test_logits_do_not_depend_on_batch_mates_behind_sgs(sites: list[str]) -> None:
    model = network()
    torch.manual_seed(2)
    with torch.no_grad(), sgs_behind(model, *sites) as lengths:
        together = model(clips())
        active = dict(lengths)
        assert any(len(set(path)) > 1 for path in active.values()), "the batch must be ragged to say something"
        alone = torch.cat([model(clip[None]) for clip in clips()])
    assert type(together) is Tensor
    assert together.std(0).min() > 1e-3 * together.abs().max()
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_the_shorter_pathway_is_padded_clip_by_clip() -> None:
    """What goes into the slow res3, against the lateral connection of each clip alone."""
    model = network()
    seen: dict[str, Tensor] = {}
    connection = model.get_submodule("blocks.1.multipathway_fusion")
    handle = connection.register_forward_hook(lambda _m, args, out: seen.update(before=args[0], after=out))
    torch.manual_seed(2)
    with torch.no_grad(), sgs_behind(model, "res2"):
        model(clips(frames=20))
        (slow, fast), (joined, kept) = seen["before"], seen["after"]
        assert kept is fast
        # a clip whose fast maps outnumber its slow ones at the slow rate, and one the other way round
        differences = [-(-f // 4) - s for f, s in zip(fast.lengths, slow.lengths, strict=True)]
        assert len(set(differences)) > 1
        for got, s, f in zip(joined.unpack(), slow.unpack(), fast.unpack(), strict=True):
            lateral = torch.relu(connection.norm(connection.conv_fast_to_slow(f[None])))[0]
            expected = torch.zeros_like(got)
            assert got.shape[1] == max(s.shape[1], lateral.shape[1])
            expected[: len(s), : s.shape[1]] = s
            expected[len(s) :, : lateral.shape[1]] = lateral
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    handle.remove()


def test_gradients_behind_sgs_are_the_sum_over_clips() -> None:
    model = copy.deepcopy(network("tiny"))
    direction = torch.randn(3, 5, dtype=torch.float64)
    with sgs_behind(model, "res2"):

        def gradients(rows: list[int]) -> list[Tensor]:
            model.zero_grad()
            (model(clips(frames=6)[rows]) * direction[rows]).sum().backward()
            return [parameter.grad for parameter in model.parameters()]

        together = gradients([0, 1, 2])
        alone = [gradients([i]) for i in range(3)]
    for name, got, *parts in zip(dict(model.named_parameters()), together, *alone, strict=True):
        scale = max(part.abs().max().item() for part in parts)
        assert scale > 0, name
        torch.testing.assert_close(got, sum(parts), rtol=1e-7, atol=1e-9 * scale, msg=name)


def test_a_still_clip_leaves_one_map_of_the_slow_stem() -> None:
    still = clips()[:1, :, :1].expand(-1, -1, 12, -1, -1).clone()
    with torch.no_grad(), sgs_behind(network(), "stem") as lengths:
        assert network()(still).shape == (1, 5)
    slow, fast = (lengths[f"blocks.0.multipathway_blocks.{i}"] for i in (0, 1))
    assert slow == (1,)
    assert 1 < fast[0] <= 5  # its convolution over five frames sees zeros beyond the clip's ends


def test_attention_is_the_mean_over_seen_positions() -> None:
    theta = torch.randn(2, 3, 2, 3, 4, dtype=torch.float64)
    phi, g = (torch.randn(2, 3, 2, 1, 2, dtype=torch.float64) for _ in range(2))
    got = attend(theta, phi, g)
    for n in range(2):
        for t, h, w in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(4)).tolist():
            seen = [(phi[n, :, s, 0, x], g[n, :, s, 0, x]) for s in range(2) for x in range(2)]
            expected = sum((theta[n, :, t, h, w] @ key) * value for key, value in seen) / len(seen)
            torch.testing.assert_close(got[n, :, t, h, w], expected)


@pytest.mark.parametrize("size", [4, 3, 1])
def test_nonlocal_blocks_attend_within_a_clip(size: int) -> None:
    block = NonLocal(8).double().eval()
    nn.init.ones_(block.norm.weight)
    parts = [torch.randn(8, n, size, size, dtype=torch.float64) for n in (3, 1, 4)]
    together = block(PackedClips.pack(parts))
    for got, part in zip(together.unpack(), parts, strict=True):
        torch.testing.assert_close(got, block(part[None])[0], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(got, part)
    equal = torch.randn(2, 8, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(block(equal), torch.cat([block(clip[None]) for clip in equal]), rtol=1e-9, atol=1e-12)


def test_logits_do_not_depend_on_batch_mates_with_nonlocal_blocks() -> None:
    model = network("tiny")
    torch.manual_seed(2)
    with torch.no_grad(), sgs_behind(model, "res2") as lengths:
        together = model(clips())
        assert len(set(lengths["blocks.1.multipathway_blocks.1"])) > 1
        alone = torch.cat([model(clip[None]) for clip in clips()])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)


def test_a_static_network_exports_with_any_batch_size() -> None:
    model = network()
    dynamic = {"clips": {0: torch.export.Dim("N", min=1, max=8)}}
    program = torch.export.export(model, (clips(8)[:2],), dynamic_shapes=dynamic)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(clips(8)), model(clips(8)))


class Attending(nn.Module):
    """A non-local block over so many maps of a clip as turn out to be bright."""

    def __init__(self) -> None:
        super().__init__()
        self.block = NonLocal(4).eval()
        nn.init.ones_(self.block.norm.weight)

    def forward(self, clip: Tensor) -> Tensor:
        bright = (clip.mean((0, 1, 3, 4)) > 0).nonzero()[:, 0]
        torch._check(bright.shape[0] >= 1)
        return self.block(clip.index_select(2, bright)).mean((2, 3, 4))


def test_nonlocal_blocks_export_with_lengths_unknown_until_they_run() -> None:
    module, frames = Attending(), torch.rand(1, 4, 8, 5, 5)
    program = torch.export.export(module, (frames,)).module()
    with torch.no_grad():
        for bright in (8, 3, 1):
            clip = torch.where(torch.arange(8).view(8, 1, 1) < bright, frames, -frames)
            torch.testing.assert_close(program(clip), module(clip))


def test_bfloat16_autocast_gives_finite_logits_behind_sgs() -> None:
    model = copy.deepcopy(network("tiny")).float()
    atfr.adapt_(model, after="res2", kernel="linear_mean")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(clips().float()).isfinite().all()


def test_a_network_with_sgs_takes_both_pathways_too() -> None:
    model = copy.deepcopy(network("tiny"))
    atfr.adapt_(model, after="res3", kernel="linear_mean")
    fast = clips()
    with torch.no_grad():
        assert torch.equal(model([fast[:, :, ::4], fast]), model(fast))
