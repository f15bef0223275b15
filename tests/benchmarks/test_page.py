"""`make bench`: scripts run one by one and go on where they were, and the page says what the result files say."""

from __future__ import annotations

import importlib.util
import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from atfr.measure import Limits, Ratio, write_result
from tests.models.narrow import shallow_x3d

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SCRIPT = """
import sys
from pathlib import Path
from atfr.measure import Limits, Ratio, script_options, write_result

def tables(report):
    return {"scale": f"| {report['results']['x']} |"}

def figures(report, folder):
    from matplotlib.figure import Figure
    figure = Figure()
    figure.subplots().plot([0, report["results"]["x"]])
    figure.savefig(folder / "scale.svg", metadata={"Date": None})

if __name__ == "__main__":
    options = script_options("a script").parse_args()
    print("measuring", options.quick)
    write_result(options.out, {"x": 42}, inputs={}, limits=Limits(*[Ratio.of([1.0])] * 3))
"""
SHORT = """
import shutil
import sys
from pathlib import Path

def tables(report):
    return {"scale": f"| {report['results']['x']} |"}

def figures(report, folder):
    (folder / "scale.svg").write_text("<svg/>")

if __name__ == "__main__":
    print("measuring", "--quick" in sys.argv)
    out = Path(sys.argv[sys.argv.index("--out") + 1])
    out.parent.mkdir(parents=True)
    shutil.copy(Path(__file__).parents[1] / "made.json", out)
"""
"""The same from what was written before, without the import of PyTorch."""
PLACES = "<!-- scale -->\nold\n<!-- end scale -->\n\nkept\n\n<!-- scale conditions -->\n<!-- end scale conditions -->\n"
PAGE = f"# Page\n\n{PLACES}"


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_page", BENCHMARKS / "page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A folder with a script, a page with places, and a script that fails."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "scale.py").write_text(SCRIPT)
    (tmp_path / "benchmarks" / "inference.py").write_text("raise SystemExit('broken')")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "performance.md").write_text(PAGE)
    return tmp_path


def written(script: Path, out: Path, quick: bool) -> bool:
    """What `run` does with the script, in this process."""
    write_result(out, {"x": 42}, inputs={}, limits=Limits(*[Ratio.of([1.0])] * 3))
    return True


def test_scripts_run_and_fill_the_page(page: ModuleType, house: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scripts, docs = house / "benchmarks", house / "docs"
    assert page.main([], scripts, house) == 1  # one script failed: it is named, and the other has run
    printed, err = capfd.readouterr()
    assert "failed: inference" in err
    assert "measuring False" in printed
    text = (docs / "performance.md").read_text()
    assert "<!-- scale -->\n\n| 42 |\n\n<!-- end scale -->" in text
    assert "old" not in text
    assert "kept" in text
    assert "python benchmarks/scale.py" in text
    drawn = (docs / "images" / "scale.svg").read_bytes()
    report = json.loads((docs / "benchmarks" / "scale.json").read_text())
    assert report["results"] == {"x": 42}

    assert page.main(["--page"], scripts, house) == 0
    assert "measuring" not in capfd.readouterr().out
    assert (docs / "performance.md").read_text() == text  # written twice, the same
    assert (docs / "images" / "scale.svg").read_bytes() == drawn


def test_what_has_a_result_of_this_code_is_not_run_again(
    page: ModuleType, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house / "benchmarks" / "inference.py").unlink()
    monkeypatch.setattr(page, "ROOT", house)
    monkeypatch.setattr(page, "run", written)
    git = ["git", "-C", str(house), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (["init", "-q"], ["add", "benchmarks"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *arguments], check=True)
    scripts, result = house / "benchmarks", house / "docs" / "benchmarks" / "scale.json"
    assert page.main([], scripts, house) == 0
    head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    report = json.loads(result.read_text())

    ran: list[str] = []
    monkeypatch.setattr(page, "run", lambda script, *_: ran.append(script.stem) or True)

    def ran_again(commit: dict | None, arguments: list[str] | None = None) -> bool:
        result.write_text(json.dumps(report | {"conditions": report["conditions"] | {"commit": commit}}))
        ran.clear()
        assert page.main(arguments or [], scripts, house) == 0
        return ran == ["scale"]

    assert not ran_again({"id": head, "dirty": False})
    assert ran_again({"id": head, "dirty": True})
    assert ran_again({"id": "0" * 40, "dirty": False})
    assert ran_again(None)
    assert ran_again({"id": head, "dirty": False}, ["scale"])
    (scripts / "scale.py").write_text(SCRIPT.replace("42", "43"))
    assert ran_again({"id": head, "dirty": False})


def test_a_quick_run_leaves_the_page_alone(page: ModuleType, house: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (house / "benchmarks" / "inference.py").unlink()
    written(house / "benchmarks" / "scale.py", house / "made.json", True)
    (house / "benchmarks" / "scale.py").write_text(SHORT)
    assert page.main(["--quick"], house / "benchmarks", house) == 0
    assert "measuring True" in capfd.readouterr().out
    assert (house / "docs" / "performance.md").read_text() == PAGE
    assert "| 42 |" in (house / "build" / "quick" / "performance.md").read_text()
    assert not (house / "docs" / "benchmarks").exists()


def test_a_table_without_a_place(page: ModuleType, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "run", written)
    (house / "docs" / "performance.md").write_text("# Page\n")
    with pytest.raises(SystemExit, match=r"the page has no place for 'scale' of scale.py: <!-- scale -->"):
        page.main(["scale"], house / "benchmarks", house)


def test_the_page_says_what_the_result_files_say(page: ModuleType) -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    filled = page.filled(text, BENCHMARKS, ROOT / "docs" / "benchmarks")
    assert filled == text, "run `python benchmarks/page.py --page`: tables come from the result files"


@pytest.mark.parametrize(
    "name", ["bf16", *(pytest.param(name, marks=pytest.mark.soak) for name in ("scale", "inference"))]
)
def test_scripts_run_quickly(name: str, page: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shallow_x3d(monkeypatch)
    monkeypatch.setattr("atfr.models.efficientnet.weights_installed", lambda: False)  # X3D alone
    monkeypatch.setattr("atfr.measure.result.machine_limits", lambda _device: Limits(*[Ratio.of([1.0])] * 3))
    script, out = BENCHMARKS / f"{name}.py", tmp_path / f"{name}.json"
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--out", str(out)])
    runpy.run_path(str(script), run_name="__main__")  # warnings are errors
    report = json.loads(out.read_text())
    assert report["inputs"]["quick"]
    module = page.load(script)
    for table in module.tables(report).values():
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({row.count("|") for row in rows}) <= 1, table  # columns of head and rows agree
    if hasattr(module, "figures"):
        module.figures(report, tmp_path)
        assert len(list(tmp_path.glob("*.svg"))) == 1


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("real_data")
def test_all_scripts_run_quickly() -> None:
    for extra in ("pytorchvideo", "openvino", "onnxruntime"):
        pytest.importorskip(extra, reason="the scripts need the extra: pip install 'atfr[bench]'")
    end = subprocess.run(
        [sys.executable, str(BENCHMARKS / "page.py"), "--quick"], capture_output=True, text=True, check=False
    )
    assert end.returncode == 0, end.stderr[-4000:]
