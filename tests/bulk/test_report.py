"""The report of a bulk prediction: figures that can be told by hand, and memory that does not grow with the rows."""

import json
from pathlib import Path
from typing import Any

import pytest

from atfr.bulk.report import bulk_report
from atfr.bulk.tables import Bulk
from atfr.cli.main import main
from atfr.measure.memory import peak_memory
from tests.alone import alone

KEY = "0123456789abcdef"


def row(number: int) -> dict[str, Any]:
    kept = 1 + number % 3
    return {
        "id": f"v{number}",
        "uri": f"/v{number}.mp4",
        "configuration": KEY,
        "label": "ab"[number % 2],
        "probability": 0.55 if number % 4 else 1.0,
        "views": 2,
        "active_bins": {"input": [kept, kept]},
        "gflops": 0.5,
        "static_gflops": 2.0,
        "warning": "cut off" if number == 0 else None,
    }


def test_figures_are_those_of_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bulk = Bulk(str(tmp_path), KEY)
    for start in (0, 6):
        bulk.predictions.append([row(number) for number in range(start, start + 6)])
    bulk.errors.append([{"id": "<x>", "uri": "x", "kind": "killed", "message": "it died"}])
    assert main(["report", str(tmp_path / KEY), "-o", str(tmp_path / "r.html"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == {"a": 6, "b": 6}
    assert found["active_bins"] == {"input": {"1": 8, "2": 8, "3": 8}}
    assert (found["videos"], found["views"], found["gflops"], found["static_gflops"]) == (12, 24, 6.0, 24.0)
    assert (found["videos_by_probability"]["0.5"], found["videos_by_probability"]["0.9"]) == (9, 3)
    assert (found["warnings"], found["errors"]) == (1, {"killed": 1})
    assert json.loads((tmp_path / "r.json").read_text()) == found
    page = (tmp_path / "r.html").read_text()
    assert "&lt;x&gt;" in page
    assert "25 % of the GFLOPs" in page


def _of_many_rows() -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        bulk = Bulk(folder, KEY)
        peaks = []
        for _ in range(3):
            for _ in range(4):
                bulk.predictions.append([row(number) for number in range(5000)])
            bulk_report(bulk)  # what a first call sets up
            peaks.append(peak_memory(lambda: bulk_report(bulk)))
        assert peaks[2] < 1.5 * peaks[0] + 16 * 2**20


def test_memory_does_not_grow_with_the_rows() -> None:
    alone(_of_many_rows)
