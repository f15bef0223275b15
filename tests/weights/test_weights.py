"""load_weights: files as other libraries write them, each value where it belongs, or one clear error and no change."""

import os
import pickle
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import atfr
from atfr.errors import CheckpointError, InputError
from atfr.models import VideoModel, create_model
from atfr.models.slowfast import SlowFast, Variant
from atfr.weights.names import translate
from tests.models import pyslowfast
from tests.models.narrow import narrow, narrowed, shallow_x3d

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # PyTorchVideo imports torch.jit's deprecated names
    from pytorchvideo.models.x3d import create_x3d
    from torchvision.models.video import r2plus1d_18

State = dict[str, Tensor]


def state_of(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def numbered(model: nn.Module) -> State:
    """A state dict in which no two tensors, and no two numbers of one, are the same."""
    return {
        name: torch.rand(tensor.shape).to(tensor.dtype) if tensor.is_floating_point() else torch.full_like(tensor, i)
        for i, (name, tensor) in enumerate(model.state_dict().items())
    }


def assert_same(got: State, expected: State) -> None:
    assert list(got) == list(expected)
    for name, tensor in got.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def whole() -> VideoModel:
    return create_model("x3d_xs", num_classes=5)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> VideoModel:
    shallow_x3d(monkeypatch)
    return create_model("x3d_xs", num_classes=5)


# PySlowFast ---------------------------------------------------------------------------------------------------------


def pyslowfast_file(network: nn.Module, path: Path) -> Path:
    config = "DATA:\n  INPUT_CHANNEL_NUM:\n  - 3\n  NUM_FRAMES: 13\nMODEL:\n  ARCH: x3d\n"
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).state_dict()
    torch.save({"epoch": 3, "model_state": network.state_dict(), "optimizer_state": optimizer, "cfg": config}, path)
    return path


def assert_computes_the_same(ours: VideoModel, theirs: nn.Module, clips: Tensor, tolerance: float) -> None:
    ours = ours.to(clips.dtype).eval()
    with torch.no_grad():
        got, expected = ours(clips), theirs(clips)
    assert expected.std(0).max() > 1  # the clips are told apart
    assert (got - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize("norm", [nn.BatchNorm3d, pyslowfast.SplitNorm])
def test_x3d_of_pyslowfast_computes_the_same_here(tmp_path: Path, whole: VideoModel, norm: type[nn.Module]) -> None:
    theirs = pyslowfast.alive(pyslowfast.X3D(5, norm))
    report = atfr.load_weights(whole.double(), pyslowfast_file(theirs, tmp_path / "x3d.pyth"))
    assert report.source == "PySlowFast"
    assert report.loaded == len(whole.state_dict())
    assert report.folded == ("blocks.1.res_blocks.0.branch1_norm",)
    assert (report.reinitialised, report.new, report.missing, report.unexpected, report.misshapen) == ((),) * 5
    assert_computes_the_same(whole, theirs, torch.randn(2, 3, 4, 64, 64, dtype=torch.float64), 1e-12)


def test_i3d_of_pyslowfast_computes_the_same_here(tmp_path: Path) -> None:
    theirs = pyslowfast.alive(narrowed(lambda: pyslowfast.ResNet(5))).float()
    ours = narrow("i3d_50", num_classes=5)
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "i3d.pyth")
    report = atfr.load_weights(ours, tmp_path / "i3d.pyth")
    assert (report.source, report.folded) == ("PySlowFast", ())
    assert_computes_the_same(ours, theirs, torch.randn(2, 3, 4, 32, 32), 1e-4)


def test_slowfast_with_non_local_blocks_of_pyslowfast_computes_the_same_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths = (1, 2, 3, 1)
    variant = Variant(frames=8, alpha=4, depths=depths, lateral_kernel=5, nonlocal_behind=(0, 2))
    monkeypatch.setattr(SlowFast, "variants", MappingProxyType({"tiny": variant}))
    theirs = pyslowfast.alive(pyslowfast.SlowFast(5, depths, alpha=4, fusion_kernel=5, nonlocals=(0, 2)))
    ours = SlowFast("tiny", num_classes=5).double()
    torch.save({"model_state": theirs.state_dict()}, tmp_path / "slowfast.pyth")
    report = atfr.load_weights(ours, tmp_path / "slowfast.pyth")
    assert (report.source, report.folded) == ("PySlowFast", ())
    assert report.loaded == len(ours.state_dict()) == len(theirs.state_dict())
    assert_computes_the_same(ours, theirs, torch.randn(2, 3, 8, 32, 32, dtype=torch.float64), 1e-12)


def test_a_network_with_pyslowfasts_names_keeps_them(tmp_path: Path) -> None:
    network = pyslowfast.X3D(5)
    state = numbered(network)
    report = atfr.load_weights(network, pyslowfast_file_of(state, tmp_path / "x3d.pyth"))
    assert (report.source, report.loaded, report.folded) == ("PySlowFast", len(state), ())
    assert_same(state_of(network), state)


def test_slow_of_pyslowfast_has_no_pool_to_count() -> None:
    zero, one = torch.zeros(1), torch.ones(1)
    theirs = {"s3.pathway0_res1.branch2.c_bn.weight": zero, "head.projection.weight": one}
    ours = {"blocks.2.res_blocks.1.branch2.norm_c.weight": zero, "blocks.5.proj.weight": one}
    assert translate(theirs, ours).tensors == ours


def test_split_norms_that_pyslowfast_has_aggregated(tmp_path: Path, whole: VideoModel) -> None:
    plain = pyslowfast.alive(pyslowfast.X3D(5)).state_dict()
    atfr.load_weights(whole, pyslowfast_file_of(plain, tmp_path / "plain.pyth"))
    expected = state_of(whole)
    split = {
        name.replace(".a_bn.running", ".a_bn.bn.running"): tensor.view(-1, 1, 1, 1) if "a_bn.weight" in name else tensor
        for name, tensor in plain.items()
    }
    atfr.load_weights(whole, pyslowfast_file_of(split, tmp_path / "split.pyth"))
    expected |= {n: whole.state_dict()[n] for n in expected if n.endswith("num_batches_tracked")}
    assert_same(state_of(whole), expected)


def pyslowfast_file_of(state: State, path: Path) -> Path:
    torch.save({"model_state": state}, path)
    return path


def test_an_incomplete_norm_of_pyslowfast_is_one_clear_error(tmp_path: Path, whole: VideoModel) -> None:
    state = pyslowfast.X3D(5).state_dict()
    del state["s2.pathway0_res0.branch1_bn.running_var"]
    with pytest.raises(CheckpointError, match="batch norm in the file do not fit together: 'running_var'"):
        atfr.load_weights(whole, pyslowfast_file_of(state, tmp_path / "x3d.pyth"))


# Other libraries ----------------------------------------------------------------------------------------------------


def test_pytorchvideo_zoo_file(tmp_path: Path, whole: VideoModel) -> None:
    theirs = create_x3d(input_clip_length=4, input_crop_size=160, model_num_class=5)
    state = numbered(theirs)
    torch.save({"model_state": state}, tmp_path / "X3D_XS.pyth")
    report = atfr.load_weights(whole, tmp_path / "X3D_XS.pyth")
    assert (report.source, report.loaded) == ("PyTorchVideo", len(state))
    assert_same(dict(sorted(whole.state_dict().items())), dict(sorted(state.items())))


def test_torchvision_state_dict(tmp_path: Path) -> None:
    state = numbered(r2plus1d_18(num_classes=5))
    torch.save(OrderedDict(state), tmp_path / "r2plus1d_18-91a641e6.pth")
    ours = create_model("r2plus1d_18", num_classes=5)
    assert atfr.load_weights(ours, tmp_path / "r2plus1d_18-91a641e6.pth").source == "torch"
    assert_same(dict(sorted(ours.state_dict().items())), dict(sorted(state.items())))


def prefixed(state: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


FILES: dict[str, tuple[str, Callable[[State, Path], object]]] = {
    "plain": ("torch", torch.save),
    "old format": ("torch", lambda s, p: torch.save(s, p, _use_new_zipfile_serialization=False)),
    "torchvision training": ("torch", lambda s, p: torch.save({"model": s, "epoch": 2}, p)),
    "DataParallel": ("torch", lambda s, p: torch.save({"state_dict": prefixed(s, "module.")}, p)),
    "compiled": ("torch", lambda s, p: torch.save(prefixed(s, "_orig_mod."), p)),
    "compiled in DataParallel": ("torch", lambda s, p: torch.save(prefixed(s, "module._orig_mod."), p)),
    "Lightning": (
        "Lightning",
        lambda s, p: torch.save({"pytorch-lightning_version": "2", "state_dict": prefixed(s, "model.")}, p),
    ),
    "PTVX3D of PySlowFast": ("PyTorchVideo", lambda s, p: torch.save({"model_state": prefixed(s, "model.")}, p)),
    "net": ("torch", lambda s, p: torch.save({"state_dict": prefixed(s, "net."), "epoch": 3}, p)),
    "backbone": ("torch", lambda s, p: torch.save(prefixed(s, "model.backbone."), p)),
    "EMA": ("torch", lambda s, p: torch.save(prefixed(s, "module.") | {"n_averaged": torch.tensor(7)}, p)),
    "DeepSpeed": ("torch", lambda s, p: torch.save({"module": s, "buffer_names": [], "global_steps": 9}, p)),
    "Lightning with DataParallel": ("torch", lambda s, p: torch.save(prefixed(s, "model.module."), p)),
    "safetensors": ("safetensors", safetensors.torch.save_file),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_container_gives_every_value(tmp_path: Path, model: VideoModel, kind: str) -> None:
    source, write = FILES[kind]
    state = numbered(model)
    write(state, tmp_path / "file")
    report = atfr.load_weights(model, str(tmp_path / "file"))
    assert (report.source, report.loaded) == (source, len(state))
    assert_same(state_of(model), state)
    (tmp_path / "file").write_bytes(b"")  # the network does not live in the file
    assert_same(state_of(model), state)


@pytest.mark.parametrize("kind", ["beside", "entries", "lone"])
def test_of_several_networks_in_a_file_the_prefix_chooses_one(tmp_path: Path, model: VideoModel, kind: str) -> None:
    state = numbered(model)
    others = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    content: dict[str, Any] = {
        "beside": {**prefixed(others, "student."), **prefixed(state, "ema.module."), "loss.weight": torch.ones(3)},
        "entries": {"model": others, "ema": prefixed(state, "module."), "epoch": 3},
        "lone": {"ema": prefixed(state, "module."), "epoch": 3},
    }[kind]
    torch.save(content, tmp_path / "file")
    assert atfr.load_weights(model, tmp_path / "file", prefix="ema").loaded == len(state)
    assert_same(state_of(model), state)
    with pytest.raises(CheckpointError, match=r"prefix 'emma\.'; its names begin with student, ema, loss|emma|prefix="):
        atfr.load_weights(model, tmp_path / "file", prefix="emma")
    if kind != "entries":
        with pytest.raises(CheckpointError, match="prefix='NAME'"):
            atfr.load_weights(model, tmp_path / "file")


def test_a_checkpoint_folder_of_ours(tmp_path: Path, model: VideoModel) -> None:
    state = numbered(model)
    model.load_state_dict(state)
    model.save_pretrained(tmp_path)
    other = create_model("x3d_s", num_classes=5)
    assert atfr.load_weights(other, tmp_path).source == "atfr"
    assert_same(state_of(other), state)


def test_somebody_elses_module_whose_names_begin_like_a_wrappers(tmp_path: Path) -> None:
    network = nn.ModuleDict({"model": nn.Sequential(nn.Conv3d(3, 4, 1), nn.Linear(4, 2))})
    state = numbered(network)
    torch.save(state, tmp_path / "file.pt")
    assert atfr.load_weights(network, tmp_path / "file.pt").loaded == 4
    assert_same(state_of(network), state)


def test_types_stay_the_networks_and_step_counts_may_lack(tmp_path: Path, model: VideoModel) -> None:
    state = {n: t.half() for n, t in numbered(model).items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "half.pt")
    report = atfr.load_weights(model, tmp_path / "half.pt")
    assert report.loaded == len(state)
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    for name, tensor in state.items():
        assert torch.equal(model.state_dict()[name], tensor.float()), name


# Heads and SGS ------------------------------------------------------------------------------------------------------


def test_another_number_of_classes_gives_a_new_classifier(tmp_path: Path, model: VideoModel) -> None:
    state = numbered(create_model("x3d_xs", num_classes=7))
    torch.save(state, tmp_path / "seven.pt")
    nn.init.constant_(model.blocks[5].proj.weight, 3.0)
    nn.init.constant_(model.blocks[5].proj.bias, 3.0)
    report = atfr.load_weights(model, tmp_path / "seven.pt")
    head = ("blocks.5.proj.weight", "blocks.5.proj.bias")
    assert (report.reinitialised, report.loaded) == (head, len(state) - 2)
    assert (report.missing, report.unexpected, report.misshapen) == ((), (), ())
    got = state_of(model)
    assert 0.009 < got[head[0]].std() < 0.011
    assert not got[head[1]].any()
    assert model.blocks[5].proj.weight.requires_grad
    assert all(torch.equal(got[name], tensor) for name, tensor in state.items() if name not in head)


def test_an_adapted_network_keeps_its_new_layer(tmp_path: Path, whole: VideoModel) -> None:
    torch.save(pyslowfast.X3D(5).state_dict(), tmp_path / "theirs.pyth")
    atfr.load_weights(whole, tmp_path / "theirs.pyth")
    loaded = state_of(whole)
    static = create_model("x3d_xs", num_classes=5)
    atfr.adapt_(static, "res3")
    before = state_of(static)
    report = atfr.load_weights(static, tmp_path / "theirs.pyth")
    assert report.new
    assert set(report.new) == {name for name in before if ".sgs." in name}
    assert (report.missing, report.unexpected) == ((), ())
    assert_same(state_of(static), before | loaded)


def test_an_adapted_file_goes_into_an_adapted_network_only(tmp_path: Path, model: VideoModel) -> None:
    adapted = create_model("x3d_xs", num_classes=5)
    atfr.adapt_(adapted, "res3")
    state = numbered(adapted)
    torch.save(state, tmp_path / "adapted.pt")
    report = atfr.load_weights(adapted, tmp_path / "adapted.pt")
    assert (report.new, report.loaded) == ((), len(state))
    assert_same(state_of(adapted), state)
    with pytest.raises(CheckpointError, match=r"\d unexpected: blocks.2.sgs.*of an adapted network: call atfr.adapt_"):
        atfr.load_weights(model, tmp_path / "adapted.pt")
    some = {name: tensor for name, tensor in state.items() if not name.endswith("bias") or ".sgs." not in name}
    torch.save(some, tmp_path / "half of SGS.pt")
    with pytest.raises(CheckpointError, match=r"missing: blocks.2.sgs"):
        atfr.load_weights(adapted, tmp_path / "half of SGS.pt")


# What does not fit --------------------------------------------------------------------------------------------------


def test_misfits_are_refused_as_a_whole_or_listed(tmp_path: Path, model: VideoModel) -> None:
    state = numbered(model)
    del state["blocks.0.norm.bias"]
    state["extra"] = torch.zeros(1)
    state["blocks.0.norm.weight"] = torch.zeros(7)
    state["blocks.0.norm.running_var"] = torch.ones(24, dtype=torch.long)
    torch.save(state, tmp_path / "file.pt")
    before = state_of(model)
    message = (
        r"file.pt' \(torch\) does not fit x3d_xs: 1 missing: blocks.0.norm.bias; 1 unexpected: extra;"
        r" 2 of another shape: blocks.0.norm.weight, blocks.0.norm.running_var; make the network"
    )
    with pytest.raises(CheckpointError, match=message):
        atfr.load_weights(model, tmp_path / "file.pt")
    assert_same(state_of(model), before)
    report = atfr.load_weights(model, tmp_path / "file.pt", strict=False)
    assert (report.missing, report.unexpected) == (("blocks.0.norm.bias",), ("extra",))
    assert report.misshapen == ("blocks.0.norm.weight", "blocks.0.norm.running_var")
    assert report.loaded == len(before) - 3
    kept = {*report.missing, *report.misshapen}
    assert_same(state_of(model), {name: before[name] if name in kept else state[name] for name in before})


def test_a_file_of_another_network_is_refused_even_loosely(tmp_path: Path, model: VideoModel) -> None:
    torch.save(create_model("resnet3d_18").state_dict(), tmp_path / "file.pt")
    for strict in (True, False):
        with pytest.raises(
            CheckpointError, match=r"\d+ missing: blocks.*, \.\.\.; \d+ unexpected: stem.*another network"
        ):
            atfr.load_weights(model, tmp_path / "file.pt", strict=strict)


class Runs:
    """Pickled as a call that makes a file."""

    def __reduce__(self) -> tuple:
        return (os.mkdir, ("ran",))


def cut(path: Path, write: Callable[[State, Path], object], state: State, share: float) -> None:
    write(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])


def old(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


DAMAGES: dict[str, tuple[Callable[[State, Path], object], str]] = {
    "missing": (lambda s, p: None, "there is no"),
    "empty": (lambda s, p: p.write_bytes(b""), "no file of weights.*begins with b''"),
    "html": (lambda s, p: p.write_text("<html>Not found"), "no file of weights.*html.*downloaded whole"),
    "cut zip": (lambda s, p: cut(p, torch.save, s, 0.5), "damaged or no file of torch.save"),
    "cut old": (lambda s, p: cut(p, old, s, 0.9), "damaged or no file of torch.save.*EOF"),
    "hardly begun old": (lambda s, p: cut(p, old, s, 1e-5), "damaged or no file of torch.save"),
    "cut safetensors": (lambda s, p: cut(p, safetensors.torch.save_file, s, 0.5), "damaged"),
    "code": (lambda s, p: torch.save({"model": s, "hook": Runs()}, p), r"holds more than tensors \(posix.mkdir\)"),
    "code, old": (
        lambda s, p: old({"model": s, "hook": Runs()}, p),
        r"more than tensors \(posix.mkdir\).*save its state",
    ),
    "whole module": (
        lambda s, p: torch.save(nn.Linear(2, 2), p),
        r"torch.nn.modules.linear.Linear\).*weights_only=Fal",
    ),
    "pickle": (lambda s, p: p.write_bytes(pickle.dumps({"a": Path("a")})), "holds more than tensors"),
    "Caffe2": (lambda s, p: p.write_bytes(pickle.dumps({"blobs": {"conv1_w": np.ones(2)}}, 2)), "pickle of Caffe2, as"),
    "list": (lambda s, p: torch.save([1, 2], p), "holds no state dict but list"),
    "nothing in it": (lambda s, p: torch.save({}, p), "holds no state dict but dict"),
    "no state": (
        lambda s, p: torch.save({"epoch": 3, "loss": 0.1}, p),
        r"2 of 2 entries .*epoch, loss.*or under model_s",
    ),
    "not only tensors": (
        lambda s, p: torch.save({**s, "step": 3}, p),
        r"1 of \d+ entries are no plain tensors \(step\)",
    ),
    "sparse": (lambda s, p: torch.save({"a": torch.eye(2).to_sparse()}, p), "no plain tensors"),
    "folder": (lambda s, p: p.mkdir(), "config.json is missing"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_cannot_be_read_is_one_clear_error(
    tmp_path: Path, model: VideoModel, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write, message = DAMAGES[damage]
    before = state_of(model)
    write(before, tmp_path / "file.pyth")
    for strict in (True, False):
        with pytest.raises(CheckpointError, match=message) as caught:
            atfr.load_weights(model, tmp_path / "file.pyth", strict=strict)
        assert "\n" not in str(caught.value)
        assert "\x1b" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    assert_same(state_of(model), before)


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_not_opened(tmp_path: Path, model: VideoModel) -> None:
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "file.pt")
    with pytest.raises(CheckpointError, match="TorchScript program"):
        atfr.load_weights(model, tmp_path / "file.pt")


def test_only_networks_with_weights_are_taken(tmp_path: Path, model: VideoModel) -> None:
    torch.save(model.state_dict(), tmp_path / "file.pt")
    with pytest.raises(InputError, match="takes a network and a path, got str"):
        atfr.load_weights("x3d_xs", tmp_path / "file.pt")
    with pytest.raises(InputError, match="meta device"):
        atfr.load_weights(model.to("meta"), tmp_path / "file.pt")


def test_a_halved_file_whose_counters_are_floats(tmp_path: Path) -> None:
    source, model = (atfr.create_model("x3d_xs", num_classes=3) for _ in range(2))
    torch.save({name: tensor.half() for name, tensor in source.state_dict().items()}, tmp_path / "half.pth")
    assert atfr.load_weights(model, tmp_path / "half.pth").misshapen == ()
    assert torch.equal(model.blocks[5].proj.weight, source.blocks[5].proj.weight.half().float())
    assert model.blocks[0].norm.num_batches_tracked.dtype == torch.int64
