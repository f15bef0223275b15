"""The script of the paper's claim runs, goes on where it was stopped, and its clips hold the motion."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from atfr.data.sample_motion import draw_motion

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def claim(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import paper_claim

    yield paper_claim
    for name in ("paper_claim", "deciding_report", "rows"):
        sys.modules.pop(name, None)


def test_it_runs_and_goes_on(
    claim: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["--out", str(tmp_path), "--quick", "--workers", "0", "--seeds", "0", "--device", "cpu", "--networks"]
    claim.main([*quick, "sgs"])
    (row,) = claim.find(tmp_path / "runs_quick.csv", {"network": "sgs"})
    monkeypatch.setattr(claim, "train_", lambda *_: iter([1.0]))
    claim.main([*quick, "sgs", "fewer_frames"])
    again, fewer = claim.find(tmp_path / "runs_quick.csv", {"seed": 0})
    assert again == row
    assert float(fewer["gflops"]) == pytest.approx(float(row["gflops"]), rel=0.1)
    assert fewer["active_bins"] == f"{int(fewer['frames_kept'])}.000"
    assert len(row["right"]) == 6
    assert "missing: static 0" in capsys.readouterr().out


def test_a_clip_holds_the_motion_or_lies_within_it(claim: ModuleType) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        motion = draw_motion("grow", claim.VIDEO_FRAMES, rng)
        for span in (32, 64, 128):
            start = claim.start_of(motion, span, rng)
            assert 0 <= start <= claim.VIDEO_FRAMES - span
            inside = motion.start_frame <= start and start + span <= motion.stop_frame + 1
            assert inside or (start <= motion.start_frame and motion.stop_frame < start + span)


def test_what_is_kept_is_what_is_rendered(claim: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rendered = [claim.Videos("train", 8, 32, 2, None)[index] for index in range(3)]
    first = [claim.Videos("train", 8, 32, 2, tmp_path)[index] for index in range(3)]
    monkeypatch.setattr(claim, "draw_video", lambda *_: pytest.fail("rendered again"))
    again = [claim.Videos("train", 8, 32, 2, tmp_path)[index] for index in range(3)]
    for ours, once, twice in zip(rendered, first, again, strict=True):
        assert ours[1] == once[1] == twice[1]
        assert torch.equal(ours[0], once[0])
        assert torch.equal(ours[0], twice[0])
