"""Making and calling networks: names, arguments, inputs, placements of SGS, copies."""

import copy
import functools
import pickle
from pathlib import Path

import pytest
import torch

import atfr
from atfr.errors import InputError
from atfr.models import (
    I3D,
    X3D,
    InceptionI3D,
    InflatedEfficientNet,
    R2Plus1D18,
    R2Plus1D50,
    ResNet3D,
    SlowFast,
    VideoModel,
    create_model,
    from_pretrained,
    list_models,
)
from tests.models.narrow import narrow

SMALL = ["resnet3d_18", "x3d_s", "r2plus1d_18", "r2plus1d_50", "i3d_50"]
DEEP = [pytest.param(name, marks=pytest.mark.soak) for name in ("r2plus1d_50", "i3d_50")]  # see also their parity
STAGES = ["stem", "res2", "res3", "res4", "res5"]


def awake(model: VideoModel) -> VideoModel:
    """Give residual branches, which start at 0, and batch-norm statistics something to say."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    return model


@functools.cache
def fresh(name: str) -> VideoModel:
    """A network as it is made; tests copy what they change."""
    torch.manual_seed(0)
    return create_model(name, num_classes=5, dropout=0.0)


CLASSES = {
    "resnet3d_18": ResNet3D,
    "resnet3d_50": ResNet3D,
    "x3d_xs": X3D,
    "x3d_s": X3D,
    "x3d_m": X3D,
    "x3d_l": X3D,
    "x3d_xl": X3D,
    "r2plus1d_18": R2Plus1D18,
    "r2plus1d_50": R2Plus1D50,
    "i3d_50": I3D,
    "i3d_inception": InceptionI3D,
    "slowfast_4x16_r50": SlowFast,
    "slowfast_8x8_r18": SlowFast,
    "slowfast_8x8_r50": SlowFast,
    "slowfast_8x8_r101_nl": SlowFast,
    "slowfast_16x8_r101_nl": SlowFast,
    "i3d_efficientnet_lite0": InflatedEfficientNet,
}


def test_list_models_names_this_release() -> None:
    assert list_models() == list(CLASSES)


@pytest.mark.parametrize("name", list_models())
def test_every_model_is_made_by_its_name(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert model.config["model"] == name
    assert model.config["arguments"]["num_classes"] == 400
    assert type(model) is CLASSES[name]
    assert list(model.stage_paths)[:5] == STAGES
    assert len(model.clip_shape) == 4
    for paths in model.stage_paths.values():
        for path in [paths] if isinstance(paths, str) else paths:
            model.get_submodule(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "x3d-s"}, r"unknown model 'x3d-s' \(did you mean x3d_s or .*x3d_xl"),
        ({"name": "slowfast"}, r"unknown model 'slowfast'.* expected one of: resnet3d_18"),
        ({"name": "x3d_s", "num_classes": 0}, "num_classes must be a whole number of 1 or more, got 0"),
        ({"name": "x3d_s", "num_classes": 2.5}, r"got 2\.5"),
        ({"name": "x3d_s", "dropout": 1.0}, r"dropout must be a probability in \[0, 1\), got 1\.0"),
        ({"name": "x3d_s", "dropout": "0.5"}, r"dropout must be a probability in \[0, 1\), got '0\.5'"),
        ({"name": "x3d_s", "drop_out": 0.5}, r"argument 'drop_out' \(did you mean dropout\?\)"),
        ({"name": "x3d_s", "temporal_strides": (1, 1, 1, 1)}, r"'temporal_strides', .* num_classes, dropout for x3d_s"),
        (
            {"name": "resnet3d_18", "pretrained": True},
            "only i3d_efficientnet_lite0, i3d_inception, x3d_xs.* resnet3d_18 does not.*load_weights.*--init",
        ),
        ({"name": "r2plus1d_50", "temporal_stride": 2}, r"'temporal_stride' \(did you mean temporal_strides\?\)"),
        (
            {"name": "r2plus1d_50", "self": 2},
            "argument 'self', expected one of: num_classes, dropout",
        ),
        (
            {"name": "r2plus1d_50", "temporal_strides": 2},
            "must be 4 whole numbers .* got 2 for r2plus1d_50",
        ),
        ({"name": "r2plus1d_18", "temporal_strides": (1, 2, 2)}, r"4 whole numbers .* got \(1, 2, 2\) for r2plus1d_18"),
        ({"name": "r2plus1d_18", "temporal_strides": (1, 2, 2, 0)}, r"got \(1, 2, 2, 0\)"),
        ({"name": "r2plus1d_18", "temporal_strides": [1, 2, 2, True]}, r"got \[1, 2, 2, True\]"),
        ({"name": "r2plus1d_18", "temporal_strides": "1222"}, "got '1222'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_hint(arguments: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


def test_classes_refuse_names_of_other_classes() -> None:
    with pytest.raises(InputError, match="unknown X3D network 'resnet3d_18'"):
        X3D("resnet3d_18")


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    ("clips", "message"),
    [
        (torch.zeros(3, 4, 32, 32), r"5-D.*\[3, 4, 32, 32\]; add the batch axis"),
        (torch.zeros(1, 4, 3, 32, 32), r"3 channels on axis 1.*movedim\(2, 1\)"),
        (torch.zeros(1, 4, 32, 32, 3), r"3 channels on axis 1.*movedim\(4, 1\)"),
        (torch.zeros(1, 3, 4, 32, 32, dtype=torch.uint8), "floating-point frames, got torch.uint8"),
        (torch.zeros(1, 3, 4, 7, 32), r"at least 1 clip of 1 frame of 8 x 8 pixels.*\[1, 3, 4, 7, 32\]"),
        (torch.zeros(1, 3, 0, 32, 32), "at least 1 clip of 1 frame"),
        (torch.zeros(0, 3, 4, 32, 32), "at least 1 clip of 1 frame"),
        ([torch.zeros(3, 4, 32, 32)], "float tensor N x 3 x T x H x W, got list"),
    ],
)
def test_wrong_clips_are_refused_with_a_remedy(name: str, clips: torch.Tensor, message: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    with pytest.raises(InputError, match=message):
        model(clips)


@pytest.mark.parametrize("name", SMALL)
def test_any_length_and_size_is_taken(name: str) -> None:
    model = narrow(name, num_classes=5).eval()
    for shape in [(1, 3, 1, 8, 8), (2, 3, 5, 33, 17), (1, 3, 20, 24, 40)]:
        with torch.no_grad():
            logits = model(torch.randn(shape))
        assert logits.shape == (shape[0], 5)
        assert logits.isfinite().all()


@pytest.mark.parametrize("name", [*SMALL[:3], *DEEP])
def test_a_new_network_keeps_the_scale_of_its_input_and_learns_in_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    model = copy.deepcopy(fresh(name))
    features: dict[str, torch.Tensor] = {}
    for stage, path in model.stage_paths.items():
        model.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, stage=stage: features.__setitem__(stage, output)
        )
    model(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    for stage, output in features.items():
        assert 0.1 < output.std() < 10, stage
    awake(model).zero_grad()
    model(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


@pytest.mark.parametrize("name", [*SMALL[:3], *DEEP])
def test_first_weights_are_those_of_he_and_residual_branches_start_at_zero(name: str) -> None:
    model = fresh(name)
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.Conv3d):
            receivers = module.weight[:, 0].numel() / module.groups  # outputs that one input feeds
            assert module.weight.std().item() == pytest.approx((2 / receivers) ** 0.5, rel=0.2), path
    stage = model.get_submodule(model.stage_paths["res4"])
    channels = {"x3d_s": 96, "resnet3d_18": 512, "r2plus1d_18": 256, "r2plus1d_50": 1024, "i3d_50": 1024}[name]
    features = torch.randn(1, channels, 2, 4, 4)
    block = copy.deepcopy(getattr(stage, "res_blocks", stage)[1]).eval()
    with torch.no_grad():
        assert torch.equal(block(features), features.relu())


def test_temporal_strides_are_kept_as_json_and_come_back_from_a_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = awake(create_model("r2plus1d_18", num_classes=5, temporal_strides=(1, 1, 1, 3))).eval()
    arguments = {"num_classes": 5, "dropout": 0.0, "temporal_strides": [1, 1, 1, 3]}
    assert model.config == {"model": "r2plus1d_18", "arguments": arguments}
    model.save_pretrained(tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    clips = torch.randn(1, 3, 7, 16, 16)
    with torch.no_grad():
        assert torch.equal(again(clips), model(clips))


@pytest.mark.parametrize("name", ["resnet3d_18", "i3d_50"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_say_the_same_and_stand_alone(name: str, copied) -> None:
    torch.manual_seed(0)
    model = awake(narrow(name, num_classes=5)).eval()
    atfr.adapt_(model)
    clips = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        expected = model(clips)
        twin = copied(model)
        assert twin.config == model.config
        torch.testing.assert_close(twin(clips), expected, rtol=0, atol=0)
        for parameter in twin.parameters():
            parameter.add_(1)
        torch.testing.assert_close(model(clips), expected, rtol=0, atol=0)


def test_bfloat16_autocast_gives_finite_logits() -> None:
    torch.manual_seed(0)
    model = awake(create_model("x3d_xs", num_classes=5)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.randn(1, 3, 4, 32, 32)).isfinite().all()


@pytest.mark.soak
@pytest.mark.parametrize("name", ["resnet3d_18", "x3d_s", "i3d_50"])  # SlowFast in every run
def test_a_static_network_exports(name: str) -> None:
    torch.manual_seed(0)
    model = awake(create_model(name, num_classes=5)).eval()
    clips = torch.randn(2, 3, 4, 32, 32)
    dynamic = {"clips": {0: torch.export.Dim("N", min=1, max=8)}}
    program = torch.export.export(model, (clips,), dynamic_shapes=dynamic)
    more = torch.randn(3, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(more), model(more))


def test_pixels_are_normalised_as_published_weights_expect() -> None:
    from torchvision.models.video import R2Plus1D_18_Weights

    preset = R2Plus1D_18_Weights.DEFAULT.transforms()
    assert (R2Plus1D18.mean, R2Plus1D18.std) == (tuple(preset.mean), tuple(preset.std))
    assert (X3D.mean, X3D.std) == ((0.45,) * 3, (0.225,) * 3)
