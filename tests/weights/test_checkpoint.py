"""Checkpoint folders: exact round trips, whole or not at all, and a clear error for each way to be wrong."""

import json
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

import atfr
from atfr.adapt.trace import site_names
from atfr.errors import CheckpointError
from atfr.models import X3D, ResNet3D, VideoModel, create_model, from_pretrained
from tests.models.narrow import shallow_x3d
from tests.models.test_models import awake

SGS = {
    "after": "res3",
    "num_bins": 3,
    "kernel": "linear_mean",
    "embedding_dim": 4,
    "top_edge": "center",
    "order": "time",
}


@pytest.fixture(autouse=True)
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    shallow_x3d(monkeypatch)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "resnet"
    create_model("resnet3d_18", num_classes=3).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of a good checkpoint, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def assert_same_state(got: torch.nn.Module, expected: torch.nn.Module) -> None:
    assert list(got.state_dict()) == list(expected.state_dict())
    for (key, tensor), reference in zip(got.state_dict().items(), expected.state_dict().values(), strict=True):
        assert tensor.dtype == reference.dtype, key
        assert torch.equal(tensor, reference), key


def logits(model: VideoModel, clips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(clips)


@pytest.mark.parametrize("name", ["resnet3d_18", "x3d_s"])
@pytest.mark.parametrize("sgs", [None, {}, SGS])
def test_round_trip_is_exact(tmp_path: Path, name: str, sgs: dict | None, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow_x3d(monkeypatch)
    torch.manual_seed(0)
    model = awake(create_model(name, num_classes=5, dropout=0.25))
    if sgs is not None:
        atfr.adapt_(model, **sgs)
    model(torch.randn(2, 3, 4, 32, 32))  # a step of batch-norm statistics
    model.save_pretrained(tmp_path / "new folder" / "é")
    for load in (from_pretrained, type(model).from_pretrained, lambda path: from_pretrained(str(path))):
        again = load(tmp_path / "new folder" / "é")
        assert type(again) is type(model)
        assert again.config == model.config
        assert atfr.adapt.adaptation(again) == atfr.adapt.adaptation(model)
        assert not any(module.training for module in again.modules())
        assert all(parameter.requires_grad for parameter in again.parameters())
        assert_same_state(again, model)
        clips = torch.randn(2, 3, 4, 32, 32)
        assert torch.equal(logits(again, clips), logits(model.eval(), clips))


def test_what_could_not_be_loaded_again_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow_x3d(monkeypatch)
    model = create_model("x3d_xs", num_classes=5)
    model.save_pretrained(tmp_path)
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    other_head = create_model("resnet3d_18", num_classes=5)
    other_head.head.fc = torch.nn.Linear(1024, 3)
    random_state = torch.get_rng_state()
    for changed, told in (
        (atfr.optimize_for_inference(model), r"x3d_xs .*missing: blocks.0.norm.weight.*optimize_for_inference"),
        (other_head, r"resnet3d_18 .*head.fc.weight is float \[3, 1024\] instead of float \[5, 1024\]"),
    ):
        with pytest.raises(CheckpointError, match=told):
            changed.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match="could not be loaded again"):
            changed.save_pretrained(tmp_path / "new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there
    assert torch.equal(torch.get_rng_state(), random_state)


def test_config_holds_what_the_design_says(tmp_path: Path) -> None:
    model = create_model("x3d_xs", num_classes=5)
    model.save_pretrained(tmp_path)
    static = {"model": "x3d_xs", "arguments": {"num_classes": 5, "dropout": 0.5}, "sgs": None}
    assert json.loads((tmp_path / "config.json").read_text()) == static
    atfr.adapt_(model, **SGS)
    atfr.set_num_bins_(model, 2)
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {**static, "sgs": {**SGS, "num_bins": 2}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_types_and_layouts_survive(tmp_path: Path, dtype: torch.dtype) -> None:
    model = create_model("x3d_xs", num_classes=5).to(dtype).to(memory_format=torch.channels_last_3d)
    model.save_pretrained(tmp_path)
    assert_same_state(from_pretrained(tmp_path), model)


def test_a_loaded_network_trains_and_outlives_its_folder(folder: Path) -> None:
    model = from_pretrained(folder)
    (folder / "model.safetensors").write_bytes(b"")
    before = model.head.fc.weight.clone()
    model.train()(torch.randn(2, 3, 4, 32, 32)).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.head.fc.weight, before)


def test_loading_leaves_the_random_state_alone(saved: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    from_pretrained(saved)
    assert torch.equal(torch.rand(3), expected)


def test_an_adapted_network_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("x3d_xs")
    atfr.adapt_(model)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("atfr.adapt.surgery.try_packed", lambda *_: pytest.fail("tried again"))
    assert list(site_names(from_pretrained(tmp_path))) == ["res2"]


def test_saving_over_a_checkpoint_keeps_other_files(folder: Path) -> None:
    (folder / "task.json").write_text("{}")
    (folder / "README.md").write_text("mine")
    model = create_model("x3d_xs", num_classes=2)
    model.save_pretrained(folder)
    assert_same_state(from_pretrained(folder), model)
    assert (folder / "task.json").read_text() == "{}"
    assert (folder / "README.md").read_text() == "mine"


def test_the_readme_says_what_it_is(saved: Path) -> None:
    text = (saved / "README.md").read_text()
    assert "# resnet3d_18" in text
    assert "designed for clips of 3 x 32 x 224 x 224" in text
    assert "task.json" in text
    assert "licen" not in text.lower()  # that of somebody's weights is not known


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file can grow beyond 1 MB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_save_without_room_changes_nothing(folder: Path, tmp_path: Path, small_disk: None) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = create_model("x3d_xs", num_classes=2)
    for place in (folder, tmp_path / "new"):
        with pytest.raises(CheckpointError, match=r"cannot write a checkpoint to .*File too large"):
            model.save_pretrained(place)
    assert not (tmp_path / "new").exists()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_save_cut_between_its_files_leaves_nothing_that_loads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = os.replace

    def cut(source: Path, target: Path) -> None:
        if Path(target).name == "config.json":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(atfr.weights.checkpoint.os, "replace", cut)
    for place in (folder, folder / "new"):
        with pytest.raises(KeyboardInterrupt):
            create_model("x3d_xs", num_classes=2).save_pretrained(place)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.safetensors"]
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        from_pretrained(folder)


def test_all_files_can_be_read_by_the_same_people(saved: Path) -> None:
    assert len({path.stat().st_mode for path in saved.iterdir()}) == 1


def test_saving_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(CheckpointError, match="cannot write a checkpoint"):
        create_model("x3d_xs").save_pretrained(tmp_path / "taken")


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def edit_weights(folder: Path, change) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {key: tensor.clone() for key, tensor in weights.items()}
    change(weights)
    safetensors.torch.save_file(weights, folder / "model.safetensors")


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing .*it holds: README.md, model.safe"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "broken json": (lambda f: (f / "config.json").write_text("{"), "config.json is not readable as JSON"),
    "binary config": (lambda f: (f / "config.json").write_bytes(b"\xff\x00"), "config.json is not readable as JSON"),
    "other config": (lambda f: (f / "config.json").write_text('{"hidden": 3}'), "must hold .*was this folder written"),
    "list config": (lambda f: (f / "config.json").write_text("[]"), "must hold"),
    "unknown model": (lambda f: edit_config(f, model="resnet3d_81"), "model 'resnet3d_81' .did you mean resnet3d_18"),
    "unknown argument": (lambda f: edit_config(f, arguments={"depth": 3}), "does not describe a network.*depth"),
    "bad argument": (lambda f: edit_config(f, arguments={"num_classes": -1}), "does not describe .*num_classes"),
    "absurd argument": (lambda f: edit_config(f, arguments={"num_classes": 10**15}), "does not describe a network"),
    "unknown stage": (lambda f: edit_config(f, sgs={"after": "res9"}), "does not describe a network.*res9"),
    "unknown kernel": (lambda f: edit_config(f, sgs={"kernel": "cubic"}), "does not describe a network.*cubic"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "damaged or no safetensors file"),
    "pickle": (lambda f: torch.save({"a": torch.zeros(1)}, f / "model.safetensors"), "damaged or no safetensors file"),
    "other classes": (
        lambda f: edit_config(f, arguments={"num_classes": 7}),
        r"2 of another form: head.fc.weight is float \[3, 1024\] instead of float \[7, 1024\]",
    ),
    "other depth": (lambda f: edit_config(f, model="resnet3d_50"), r"do not fit resnet3d_50 .*missing: res2.2.conv_a"),
    "sgs not in weights": (lambda f: edit_config(f, sgs={"after": "res2"}), "missing: res2.sgs"),
    "too many": (lambda f: edit_weights(f, lambda w: w.update(more=torch.zeros(1))), "1 superfluous: more"),
    "integers": (
        lambda f: edit_weights(f, lambda w: w.update({"head.fc.bias": w["head.fc.bias"].long()})),
        r"int \[3\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_one_clear_error(folder: Path, damage: str) -> None:
    inflict, message = DAMAGES[damage]
    inflict(folder)
    for load in (from_pretrained, ResNet3D.from_pretrained):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(folder)
        assert "\n" not in str(caught.value)


def test_truncated_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_are_not_finite_are_refused(value: float, dtype: torch.dtype, tmp_path: Path) -> None:
    """Or every answer would be the first class."""
    model = create_model("x3d_xs", num_classes=4).to(dtype)
    name = next(name for name, _ in model.named_buffers() if name.endswith("running_var"))
    model.get_buffer(name)[3] = value
    model.save_pretrained(tmp_path)
    for load in (from_pretrained, lambda folder: atfr.load_weights(create_model("x3d_xs", num_classes=4), folder)):
        with pytest.raises(CheckpointError, match=rf"NaN or infinity in 1 of its \d+ tensors.*{name}.*earlier"):
            load(tmp_path)


def test_another_class_says_which_one_it_is(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'resnet3d_18'.*expected one of: x3d_xs.*atfr\.from_pretrained"):
        X3D.from_pretrained(saved)


@pytest.mark.parametrize("source", ["no/such/folder", "nowhere", Path("owner/name")])
def test_a_missing_folder_is_an_error_without_the_network(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a checkpoint folder .*no such folder"):
        from_pretrained(source)


def test_a_file_is_no_folder(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config.json' \(a file\)"):
        from_pretrained(saved / "config.json")


def test_a_hub_id_is_fetched(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(repo_id: str, filename: str, **options: object) -> str:
        asked.append((repo_id, filename, options))
        return str(saved / filename)

    monkeypatch.setattr(atfr.weights.checkpoint, "hf_hub_download", download)
    assert ResNet3D.from_pretrained("owner/name", revision="v1").config["model"] == "resnet3d_18"
    assert asked == [
        ("owner/name", "config.json", {"revision": "v1"}),
        ("owner/name", "model.safetensors", {"revision": "v1"}),
    ]


def test_a_hub_that_does_not_deliver_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'owner/name': there is no such folder, and the Hub answered"):
        from_pretrained("owner/name", local_files_only=True, cache_dir=tmp_path)


def test_push_uploads_the_saved_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pushed = {}
    monkeypatch.setattr(
        "huggingface_hub.HfApi.create_repo", lambda _self, repo_id, **_: type("Repo", (), {"repo_id": repo_id})
    )
    monkeypatch.setattr(
        "huggingface_hub.HfApi.upload_folder",
        lambda _self, repo_id, folder_path, **_: pushed.update({repo_id: from_pretrained(Path(folder_path))}),
    )
    model = create_model("x3d_xs", num_classes=2)
    atfr.adapt_(model)
    model.save_pretrained(tmp_path / "name", push_to_hub=True)
    assert list(pushed) == ["name"]
    assert_same_state(pushed["name"], model)
