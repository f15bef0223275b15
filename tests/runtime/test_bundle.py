"""A bundle does what the network does: logits, active bins and cost, for every number of maps; or it is refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest
import torch

import atfr
from atfr.errors import AtfrError, BundleError, InputError
from atfr.files import sha256_of
from atfr.models import VideoModel
from atfr.runtime import Bundle
from atfr.runtime.description import BUNDLE, Runtime
from atfr.runtime.engines import openvino_core
from atfr.runtime.split import split
from tests.models.narrow import flat
from tests.runtime.build import FRAMES, clips, known, network, task

pytestmark = pytest.mark.usefixtures("few_layers", "_tiny_is_known")
RUNTIMES = get_args(Runtime)


@pytest.fixture(scope="module")
def _tiny_is_known() -> Iterator[None]:
    with known():
        yield


@pytest.fixture(scope="module")
def folders(_tiny_is_known: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of one adapted network, a folder for each runtime."""
    folder = tmp_path_factory.mktemp("bundles")
    for runtime in RUNTIMES:
        atfr.export_bundle(network(), task(), folder / runtime, runtime)
    return folder


@pytest.fixture(scope="module")
def bundles(folders: Path) -> dict[str, Bundle]:
    return {runtime: atfr.load_bundle(folders / runtime, threads=1) for runtime in RUNTIMES}


def off(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_ragged_batch_as_in_pytorch(bundles: dict[str, Bundle], runtime: Runtime) -> None:
    bundle = bundles[runtime]
    with torch.no_grad(), atfr.record(network()) as trace:
        logits = network()(clips())
    assert len(set(trace.kept_maps)) >= 4
    answer = bundle(clips())
    assert off(answer.logits, logits) < 1e-4
    assert answer.trace.kept_maps == trace.kept_maps
    assert answer.trace.active_bins.tolist() == trace.kept_maps
    ours, theirs = answer.trace.sites["res2"], trace.sites["res2"]
    assert ours.assignment.tolist() == theirs.assignment.tolist()
    torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-3, atol=1e-4)
    cost = atfr.clip_cost(network(), task().clip_shape)
    assert bundle.cost == cost
    assert bundle.cost.of(answer.trace) == cost.of(trace)


@pytest.mark.parametrize("runtime", ["openvino", "onnx"])
def test_every_number_of_maps(bundles: dict[str, Bundle], runtime: Runtime) -> None:
    check_every_number_of_maps(bundles[runtime], network())


def check_every_number_of_maps(bundle: Bundle, model: VideoModel) -> None:
    """The late graph is asked for each number of maps, longer and shorter ones in turns."""
    parts = split(model, bundle.task.clip_shape)
    with bundle._run.requests.lent() as (_, late), torch.no_grad():
        (maps,) = parts.before(clips(1))
        for kept in (number for length in range(1, FRAMES // 2 + 1) for number in (length, FRAMES + 1 - length)):
            ours = late(maps[0, :, :kept].permute(1, 2, 3, 0).contiguous().numpy())[0]
            assert off(torch.from_numpy(ours), parts.after(maps[:, :, :kept])) < 1e-4


@pytest.mark.soak
def test_x3d(tmp_path: Path) -> None:
    model = network("x3d_xs")
    atfr.export_bundle(model, task(), tmp_path / "bundle")
    check_every_number_of_maps(atfr.load_bundle(tmp_path / "bundle"), model)


class Counting:
    """OpenVINO's core, and how often it has compiled."""

    def __init__(self) -> None:
        self.core, self.compiled = openvino_core(), 0

    def read_model(self, *args: object) -> object:
        return self.core.read_model(*args)

    def compile_model(self, *args: object) -> object:
        self.compiled += 1
        return self.core.compile_model(*args)


def test_graphs_for_each_number_of_maps_that_comes(
    folders: Path, bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    core = Counting()
    monkeypatch.setattr("atfr.runtime.engines.openvino_core", lambda: core)
    bundle = atfr.load_bundle(folders / "openvino", threads=1, specialize=True)
    theirs = bundles["openvino"](clips())
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(bundle, [clips()] * 8))
    for ours in answers:
        assert ours.trace.kept_maps == theirs.trace.kept_maps
        assert off(ours.logits, theirs.logits) < 1e-5
    assert core.compiled == 1 + len(set(theirs.trace.kept_maps)), "the early graph, and the late one for each number"


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_threads_do_not_mix(bundles: dict[str, Bundle], runtime: Runtime) -> None:
    bundle = bundles[runtime]
    alone = [bundle(clip[None]) for clip in clips()]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: bundle(clips()[number % 6 :][:1]), range(36)))
    for number, answer in enumerate(answers):
        assert answer.trace.kept_maps == alone[number % 6].trace.kept_maps
        torch.testing.assert_close(answer.logits, alone[number % 6].logits, rtol=1e-5, atol=1e-6)


BLOCKS = {"temporal_block": 4, "kernel": "linear_mean", "order": "time", "num_bins": 3}


@pytest.mark.parametrize(
    ("name", "options", "frames", "runtime"),
    [
        ("resnet3d_18", {"after": None}, 4, "openvino"),
        pytest.param("resnet3d_18", BLOCKS, 8, "openvino", marks=pytest.mark.soak),
        pytest.param("slowfast_4x16_r50", {}, 32, "openvino", marks=pytest.mark.soak),
        ("slowfast_8x8_r18", {"after": "res4"}, 16, "openvino"),
        pytest.param("slowfast_8x8_r18", {}, 32, "onnx", marks=pytest.mark.soak),
    ],
    ids=["static", "blocks", "slowfast-r50", "slowfast", "slowfast-onnx"],
)
def test_other_networks(tmp_path: Path, name: str, options: dict, frames: int, runtime: Runtime) -> None:
    with flat():
        check_bundle(tmp_path / "bundle", name, options, frames, runtime)


def check_bundle(folder: Path, name: str, options: dict, frames: int, runtime: Runtime) -> None:
    model = network(name, **options)
    bundle = atfr.export_bundle(model, task(frames), folder, runtime)
    batch = clips(3, frames)
    with torch.no_grad(), atfr.record(model) as trace:
        logits = model(batch)
    answer = atfr.load_bundle(folder)(batch)
    assert off(answer.logits, logits) < 1e-4
    assert {site: kept.lengths for site, kept in answer.trace.sites.items()} == {
        site: kept.lengths for site, kept in trace.sites.items()
    }
    if trace.sites:
        if runtime == "openvino":
            specialized = atfr.load_bundle(folder, specialize=True)(batch)
            assert off(specialized.logits, answer.logits) < 1e-5
        assert bundle.cost.of(answer.trace) == atfr.clip_cost(model, task(frames).clip_shape).of(trace)


def test_sites_behind_each_other_run_in_pytorch_only(tmp_path: Path) -> None:
    model = network(after=("res2", "res4"))
    with pytest.raises(AtfrError, match="'res4' stands behind another"):
        atfr.export_bundle(model, task(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())
    bundle = atfr.export_bundle(model, task(), tmp_path / "bundle", "torch")
    assert list(bundle(clips(1)).trace.sites) == ["res2", "res4"]


def test_an_operation_that_a_runtime_does_not_have(tmp_path: Path) -> None:
    model = network(after="res3", sampler="uniform", active_bins=2.5)  # draws by shifting bits
    with pytest.raises(BundleError, match=r"openvino cannot take tiny .*rshift.* with runtime='torch'"):
        atfr.export_bundle(model, task(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_clips_of_another_shape_are_refused(bundles: dict[str, Bundle]) -> None:
    for wrong in (clips()[0], clips()[:0], clips().double(), clips(frames=8), clips()[..., :24]):
        with pytest.raises(InputError, match=r"takes float32 clips N x 3 x 6 x 32 x 32, got .* of shape \["):
            bundles["openvino"](wrong)


def damaged(folders: Path, tmp_path: Path, runtime: Runtime = "openvino") -> Path:
    return Path(shutil.copytree(folders / runtime, tmp_path / "damaged"))


@pytest.mark.parametrize("name", ["early.bin", "late.bin", "late.xml"])
def test_a_file_of_another_bundle_or_none(folders: Path, tmp_path: Path, name: str) -> None:
    folder = damaged(folders, tmp_path)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name}' is damaged"):
        atfr.load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name}' is missing"):
        atfr.load_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "is of format 99, this atfr reads format 1"),
        ({"runtime": "tensorrt"}, "runtime must be one of openvino, onnx, torch"),
        ({"task": {"labels": []}}, "a task is"),
        ({"files": {"../late.xml": "0"}}, "files must name files of the folder"),
        ({"sites": "res2"}, "sites must be"),
        ({"multiply_adds": {"1": 2}}, "'static'"),
        ({"surplus": 1}, "surplus"),
        ({"network": {}}, "network must have"),
    ],
)
def test_a_damaged_description(folders: Path, tmp_path: Path, change: dict, message: str) -> None:
    folder = damaged(folders, tmp_path)
    values = json.loads((folder / BUNDLE).read_text())
    (folder / BUNDLE).write_text(json.dumps(values | change))
    with pytest.raises(BundleError, match=message):
        atfr.load_bundle(folder)


def test_no_bundle(tmp_path: Path, folders: Path) -> None:
    with pytest.raises(BundleError, match="no such folder"):
        atfr.load_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"it has no bundle\.json"):
        atfr.load_bundle(tmp_path)
    folder = damaged(folders, tmp_path)
    (folder / BUNDLE).write_text("{")
    with pytest.raises(BundleError, match="is damaged"):
        atfr.load_bundle(folder)


def test_graphs_of_another_network_under_right_checksums(folders: Path, tmp_path: Path) -> None:
    folder = damaged(folders, tmp_path)
    values = json.loads((folder / BUNDLE).read_text())
    (folder / "late.xml").write_text("<net/>")
    values["files"]["late.xml"] = sha256_of(folder / "late.xml")
    (folder / BUNDLE).write_text(json.dumps(values))
    with pytest.raises(BundleError, match="openvino cannot read the bundle"):
        atfr.load_bundle(folder)


def test_only_bundles_are_replaced(folders: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").touch()
    with pytest.raises(BundleError, match="exists and is no bundle"):
        atfr.export_bundle(network(), task(), mine, "torch")
    with pytest.raises(BundleError, match="exists and is no bundle"):
        atfr.export_bundle(network(), task(), mine / "thesis.tex", "torch")
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]
    folder = damaged(folders, tmp_path)
    atfr.export_bundle(network(), task(), folder, "torch")
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        BUNDLE,
        "config.json",
        "model.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged", "mine"]


def test_an_older_bundle_stays_when_the_new_one_fails(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = damaged(folders, tmp_path)
    monkeypatch.setattr("atfr.runtime.export.TOLERANCE", -1.0)
    with pytest.raises(BundleError, match="does not do what tiny does in PyTorch"):
        atfr.export_bundle(network(), task(), folder, "torch")
    assert atfr.load_bundle(folder).description.runtime == "openvino"
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("basic_ios::clear:\n  iostream error")]
)
def test_a_full_disk_is_not_the_networks_fault(error: Exception, tmp_path: Path, monkeypatch) -> None:
    def write(*_: object) -> None:
        raise error

    monkeypatch.setattr("atfr.runtime.engines.OpenVINO.write", write)
    with pytest.raises(
        BundleError, match=r"cannot write a bundle to .*(No space left|iostream error; is the disk full)"
    ):
        atfr.export_bundle(network(), task(), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("package", "runtime"), [("openvino", "openvino"), ("onnxruntime", "onnx")])
def test_a_runtime_that_is_not_installed(folders: Path, monkeypatch, package: str, runtime: Runtime) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BundleError, match=rf"{package} cannot be used .*pip install 'atfr\[{runtime}\]'"):
        atfr.load_bundle(folders / runtime)


def test_bfloat16_is_asked_for(folders: Path) -> None:
    for runtime in ("openvino", "torch"):
        answer = atfr.load_bundle(folders / runtime, precision="bfloat16")(clips())
        assert off(answer.logits, atfr.load_bundle(folders / runtime)(clips()).logits) < 0.3
    assert answer.logits.dtype == torch.bfloat16
    with pytest.raises(BundleError, match="a bundle of onnx computes in float32"):
        atfr.load_bundle(folders / "onnx", precision="bfloat16")
    with pytest.raises(BundleError, match="specialize=True is for bundles of openvino, this one is of torch"):
        atfr.load_bundle(folders / "torch", specialize=True)
    for threads in (0, -1, 1.5):
        with pytest.raises(InputError, match="threads must be an integer of at least 1"):
            atfr.load_bundle(folders / "openvino", threads=threads)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="precision must be one of"):
        atfr.load_bundle(folders / "torch", precision="half")  # type: ignore[arg-type]


def test_what_only_writes_is_not_needed_to_run(folders: Path) -> None:
    code = (
        "import sys; sys.modules |= dict.fromkeys(('onnx', 'onnxscript', 'openvino'));"
        f"import torch, atfr; bundle = atfr.load_bundle({str(folders / 'onnx')!r});"
        "print(bundle(torch.zeros(1, *bundle.task.clip_shape)).logits.shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "torch.Size([1, 5])"


@pytest.mark.soak  # test_graphs: these samplers in both runtimes, without a whole network
@pytest.mark.parametrize("options", [{"sampler": "change", "num_bins": 5}, {"kernel": "keep", "edge_maps": 1}])
@pytest.mark.parametrize(("after", "runtime"), [("input", "onnx"), ("input", "openvino"), ("res2", "openvino")])
def test_maps_of_the_clip_itself_in_a_bundle(tmp_path: Path, after: str, runtime: Runtime, options: dict) -> None:
    torch.manual_seed(0)
    model = atfr.create_model("resnet3d_18", num_classes=len(task().labels)).eval()
    atfr.adapt_(model, after, **options)
    bundle = atfr.export_bundle(model, task(), tmp_path / "bundle", runtime)
    with torch.no_grad(), atfr.record(model) as trace:
        logits = model(clips())
    answer = bundle(clips())
    assert off(answer.logits, logits) < 1e-4
    assert answer.trace.sites[after].assignment.tolist() == trace.sites[after].assignment.tolist()
    assert answer.trace.kept_maps == trace.kept_maps
    assert atfr.load_bundle(tmp_path / "bundle").cost == atfr.clip_cost(model, task().clip_shape)
