"""docs/models.md: every network has a line, and the lines are those that its script writes today."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import atfr

ROOT = Path(__file__).parents[1]
LINES = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").splitlines()
ROWS = {line.split("`")[1]: line for line in LINES if line.startswith("| `")}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_table", ROOT / "benchmarks" / "models_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_network_has_a_line(script: ModuleType) -> None:
    assert list(ROWS) == atfr.list_models()
    assert list(script.WEIGHTS) == atfr.list_models()
    assert LINES[: script.HEAD.count("\n")] == script.HEAD.splitlines()


@pytest.mark.parametrize("name", ["resnet3d_18", "x3d_xs", "r2plus1d_18", "i3d_50", "slowfast_4x16_r50"])
def test_lines_are_up_to_date(script: ModuleType, name: str) -> None:
    assert script.row(name) == ROWS[name]


def test_files_of_weights_are_those_of_the_page_on_checkpoints(script: ModuleType) -> None:
    checkpoints = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    for weights in script.WEIGHTS.values():
        assert all(file in checkpoints for file in weights.split("`")[1::2]), weights


# From the publications and model zoos of the networks: multiply-adds / 1e9 of one clip, parameters in millions.
@pytest.mark.parametrize(
    ("name", "millions", "gflops"),
    [
        ("x3d_s", 3.79, 1.96),
        ("x3d_m", 3.79, 4.73),
        ("x3d_l", 6.15, 18.37),
        ("x3d_xl", 11.09, 35.84),
        ("r2plus1d_18", 31.505, 40.52),
        ("i3d_50", 28.04, 28.4),
    ],
)
def test_lines_hold_published_figures(name: str, millions: float, gflops: float) -> None:
    _, _, own_millions, _, own_gflops, *_ = (cell.strip() for cell in ROWS[name].split("|"))
    assert float(own_millions) == pytest.approx(millions, abs=0.0101)  # both are rounded
    assert float(own_gflops) == pytest.approx(gflops, rel=0.005)
