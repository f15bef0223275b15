"""Every script in examples/ runs as a user runs it, in a folder of its own, without a warning."""

import re
import runpy
from pathlib import Path

import pytest

from atfr.viz.explain import ROUNDS
from tests.models.narrow import flat

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

SAYS = {
    "01_adapt_any_network": r"maps kept of 16: \[1, 2, 3\][\s\S]*restored: True[\s\S]*refused: ReversingNet[^\n]*flip",
    "02_finetune": r"adaptive: loss by epoch[\s\S]*static: top-1 [\s\S]*adaptive: top-1 .*'res2': \{",
    "03_explain": r"16 maps came in, [1-9]\d* went out[\s\S]*page\.html",
    "04_export": r"bundle\.json[\s\S]*(.* maps, .* GFLOPs\n){6}[\s\S]*the logits differ by \de-0[5-9]",
}
"""What must stand in a script's output."""


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(ROUNDS, "rounds", 3)  # of times, which the script only shows
    monkeypatch.setattr("atfr.viz.page.svg", lambda *_: "<svg></svg>")  # what a page shows is tested where it is made
    with flat():
        runpy.run_path(str(script), run_name="__main__")
    printed, err = capsys.readouterr()
    assert re.search(SAYS[script.stem], printed), printed
    assert "Warning" not in err, err
    assert {path.name for path in tmp_path.iterdir()} <= {"runs"}, "scripts write below runs/ only"


def test_every_script_is_on_the_page() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert EXAMPLES, "there are no examples"
    for script in EXAMPLES:
        assert f'--8<-- "examples/{script.name}"' in page
