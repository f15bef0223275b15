"""docs/reproduction.md is what its reports say, and these agree with the videos that each test told right."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from atfr.paper import show

ROOT = Path(__file__).parents[2]
REPORTS = sorted((ROOT / "docs" / "studies" / "reproduction").rglob("*.json"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "benchmarks" / "reproduction.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_written_from_the_reports(script: ModuleType) -> None:
    page = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    assert page == script.page(script.REPORTS), "write it again: python benchmarks/reproduction.py"


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_figures_are_those_of_the_videos(path: Path) -> None:
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        for found in filter(None, (row.get("ours"), row.get("fewer_frames"))):
            right = "".join(found["right"])
            assert found["top1"] == pytest.approx(100 * right.count("1") / len(right))
        if row.get("fewer_frames"):
            ours, control = ("".join(row[name]["right"]) for name in ("ours", "fewer_frames"))
            assert row["over_fewer_frames"]["mean"] == pytest.approx((ours.count("1") - control.count("1")) / len(ours))
            assert row["fewer_frames"]["gflops"] <= 1.03 * row["ours"]["gflops"] or row["fewer_frames"]["frames"] == 1


def report(tmp_path: Path, low: float, high: float) -> dict[str, Any]:
    """A table of one row whose paper's difference is -1 point; its own interval, in points."""
    over = {"mean": (low + high) / 200, "low": low / 100, "high": high / 100}
    row = {"model": "X3D-S+ATFR", "setting": "res2", "note": "", "paper": {"top1": 78.0}, "paper_over": -1.0}
    row |= {"ours": {"top1": 50.0, "active_bins": {"res2": 3.0}}, "fewer_frames": None, "over": over}
    row |= {"over_fewer_frames": over, "trained": {"name": "x3d_s"}}
    conditions = {
        "hardware": {"cpu": "a CPU"},
        "threads": 1,
        "versions": {"torch": "2"},
        "date": "2026-01-01T",
        "about": "x",
    }
    values = {"table": "6", "title": "t", "paper": "", "seeds": [0], "metrics": ["top1"], "rows": [row]}
    return values | {"conditions": conditions}


@pytest.mark.parametrize(
    ("low", "high", "told", "missed"),
    [(-9, -2, "below", 2), (-2, 3, "level", 1), (2, 9, "above", 1)],
)
def test_where_the_claim_does_not_hold(
    low: float, high: float, told: str, missed: int, script: ModuleType, tmp_path: Path
) -> None:
    values = report(tmp_path, low, high)
    assert show.differences(values)[1][0][3] == told
    assert len(script.missed(values)) == missed
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "table_6.json").write_text(json.dumps(values))
    page = script.page(tmp_path)
    assert "| res2 | 78.0 / 50.0 | 3.0 |" in page
    assert "Not run: `atfr reproduce 6 --scale small --data FOLDER`, `atfr reproduce 6 --scale paper" in page
    assert page.count("Where the claim does not hold") == (missed > 0)
