"""The sample action set: whole or not there, the same by seed, and moving as its manifest says."""

import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from atfr.data.records import read_csv, read_folder
from atfr.data.sample_footage import DISTURBANCES, draw_disturbed
from atfr.data.sample_motion import CHANGES, Motion, draw_motion, draw_video
from atfr.data.samples import SAMPLE_CLASSES, SampleClip, manifest_of, read_manifest, render_samples
from atfr.errors import DataError, InputError
from atfr.video.decode import decode

SMALL = {"clips_per_class_train": 3, "clips_per_class_test": 2, "size": 48, "frames": 24}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return render_samples(tmp_path_factory.mktemp("set") / "sample set ü", **SMALL)


def drawn_again(clip: SampleClip, size: int, footage: str) -> tuple[Motion, np.ndarray]:
    rng = np.random.default_rng(clip.seed)
    motion = draw_motion(clip.name, clip.frames, rng)
    disturbed = draw_disturbed(footage, clip.frames, motion.start_frame, motion.stop_frame, rng)
    return motion, draw_video(motion, disturbed, size, rng)


def changes_of(video: np.ndarray) -> np.ndarray:
    return np.abs(np.diff(video.astype(int), axis=0)).mean(axis=(1, 2, 3))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_layout(root: Path) -> None:
    splits = read_folder(root)
    assert splits["train"].labels == SAMPLE_CLASSES
    assert len(splits["train"]) == 18
    assert len(splits["test"]) == 12
    from_csv = read_csv(root / "manifest.csv")
    for split in ("train", "test"):
        assert set(from_csv[split].records) == set(splits[split].records)
        assert from_csv[split].labels == splits[split].labels
    assert len({clip.seed for clip in read_manifest(root)}) == 30
    assert list(root.parent.iterdir()) == [root]


def test_videos_are_what_was_drawn_and_move_when_the_manifest_says(root: Path) -> None:
    for clip in read_manifest(root):
        frames = decode(root / clip.path)
        assert frames.data.shape == (24, 3, 48, 48)
        assert frames.fps == 24
        assert frames.warning is None
        motion, drawn = drawn_again(clip, 48, "mixed")
        assert np.abs(frames.data.permute(0, 2, 3, 1).numpy().astype(int) - drawn).mean() < 8
        assert (motion.start_frame, motion.stop_frame) == (clip.start_frame, clip.stop_frame)
        assert (changes_of(drawn)[clip.start_frame : clip.stop_frame] > 0).all()
        assert 0 < clip.start_frame < clip.stop_frame < 24


@pytest.mark.parametrize("footage", ["clean", *DISTURBANCES])
def test_each_disturbance_is_there_and_alone(tmp_path: Path, footage: str) -> None:
    root = render_samples(tmp_path / "set", **SMALL | {"frames": 36}, footage=footage)
    for clip in read_manifest(root):
        kinds = {
            "noise": clip.noise > 0,
            "drift": (clip.drift_x, clip.drift_y) != (0, 0),
            "shake": clip.shake > 0,
            "freeze": clip.frozen,
            "flash": clip.flash >= 0,
            "cuts": bool(clip.cuts),
        }
        assert {kind for kind, there in kinds.items() if there} == {footage} - {"clean"}
        change = changes_of(drawn_again(clip, 48, footage)[1])
        still = np.ones(35, dtype=bool)
        still[clip.start_frame : clip.stop_frame] = False
        if footage in ("clean", "freeze"):
            assert (change[still] == 0).all()
        elif footage in ("noise", "drift", "shake"):
            assert (change[still] > 0).all()
        else:
            at = [clip.flash - 1, clip.flash + 1] if footage == "flash" else [int(cut) - 1 for cut in clip.cuts.split()]
            assert np.flatnonzero(still & (change > 0)).tolist() == sorted(at)


def test_mixed_videos_have_each_disturbance_now_and_then(root: Path) -> None:
    clips = read_manifest(root)
    for there in (lambda c: c.noise > 0, lambda c: c.drift_x != 0, lambda c: c.shake > 0, lambda c: c.frozen):
        assert 0 < sum(map(there, clips)) < len(clips)


def test_trimmed_videos_are_the_same_around_their_motion(root: Path, tmp_path: Path) -> None:
    trimmed = read_manifest(render_samples(tmp_path / "set", **SMALL, trimmed=True))
    for clip, cut in zip(read_manifest(root), trimmed, strict=True):
        first = clip.start_frame - cut.start_frame
        assert (cut.path, cut.stop_frame + first) == (clip.path, clip.stop_frame)
        assert cut.start_frame == min(4, clip.start_frame)
        assert cut.frames == min(clip.frames, clip.stop_frame + 5) - first
        whole, part = decode(root / clip.path).data, decode(tmp_path / "set" / cut.path).data
        assert len(part) == cut.frames
        assert (whole[first : first + cut.frames].float() - part.float()).abs().mean() < 4  # both are compressed


def test_the_truth_of_a_list_of_videos(root: Path, tmp_path: Path) -> None:
    videos = read_folder(root)["test"]
    truth = manifest_of(videos)
    assert [(root / clip.path).resolve() for clip in truth] == [record.path.resolve() for record in videos.records]
    for name in ("a/one.mp4", "a/other.mp4", "b/one.mp4", "b/other.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((root / truth[0].path).read_bytes())
    assert manifest_of(read_folder(tmp_path)["test"]) == []


def test_the_same_settings_are_reused_and_render_the_same_bytes(root: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert render_samples(root, **SMALL) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert contents(render_samples(tmp_path / "again", **SMALL)) == contents(root)
    other = contents(render_samples(tmp_path / "other", **SMALL, seed=1))
    assert not set(other.values()) & {content for name, content in contents(root).items() if name.endswith("mp4")}


def test_other_processes_draw_the_same() -> None:
    """Strings hash differently in each process, so that sets of them have another order."""
    code = """import hashlib, numpy
from atfr.data.sample_footage import draw_disturbed
from atfr.data.sample_motion import CHANGES, draw_motion, draw_video
disturbed = lambda rng: draw_disturbed("mixed", 12, 4, 8, rng)
draw = lambda name, rng: draw_video(draw_motion(name, 12, rng), disturbed(rng), 32, rng).tobytes()
print(hashlib.sha256(b"".join(draw(name, numpy.random.default_rng(0)) for name in CHANGES)).hexdigest())"""
    found = set()
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        found.add(done.stdout)
    assert len(found) == 1


def test_an_interrupted_call_leaves_nothing_under_the_name_and_is_completed(root: Path, tmp_path: Path) -> None:
    target = tmp_path / "set"

    def interrupt(done: int, total: int) -> None:
        assert total == 30
        if done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        render_samples(target, **SMALL, progress=interrupt)
    assert not target.exists()
    (part,) = tmp_path.iterdir()
    made = {path: path.stat().st_mtime_ns for path in part.rglob("*.mp4")}
    assert len(made) == 7
    calls: list[int] = []
    render_samples(target, **SMALL, progress=lambda done, total: calls.append(done))
    assert calls == list(range(1, 31))
    assert list(tmp_path.iterdir()) == [target]
    assert contents(target) == contents(root)
    for path, time in made.items():
        assert (target / path.relative_to(part)).stat().st_mtime_ns == time


def test_missing_videos_are_rendered_again(root: Path, tmp_path: Path) -> None:
    target = render_samples(tmp_path / "set", **SMALL)
    (target / "train" / "grow" / "0001.mp4").unlink()
    (target / "manifest.csv").unlink()
    render_samples(target, **SMALL)
    assert contents(target) == contents(root)


def test_nothing_of_others_is_overwritten(root: Path, tmp_path: Path) -> None:
    before = contents(root)
    with pytest.raises(DataError, match="other settings"):
        render_samples(root, **{**SMALL, "frames": 30})
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty and holds no sample set"):
        render_samples(tmp_path, **SMALL)
    with pytest.raises(DataError, match="is a file"):
        render_samples(tmp_path / "mine.txt", **SMALL)
    assert contents(root) == before
    assert contents(tmp_path) == {"mine.txt": b"mine"}
    (tmp_path / "empty").mkdir()
    assert len(read_manifest(render_samples(tmp_path / "empty", **SMALL))) == 30


def test_damaged_meta_file(tmp_path: Path) -> None:
    (tmp_path / "samples.json").write_text("{")
    with pytest.raises(DataError, match="damaged"):
        render_samples(tmp_path, **SMALL)
    (tmp_path / "samples.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match="other settings"):
        render_samples(tmp_path, **SMALL)


@pytest.mark.parametrize(
    "change",
    [{"size": 47}, {"size": 2}, {"frames": 4}, {"clips_per_class_test": 0}, {"seed": -1}, {"footage": "rain"}],
)
def test_wrong_settings(tmp_path: Path, change: dict[str, int | str]) -> None:
    with pytest.raises(InputError, match=next(iter(change))):
        render_samples(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_read_manifest_without_a_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="render_samples"):
        read_manifest(tmp_path)


# What keeps appearance from giving the class away


def distance(ones: np.ndarray, others: np.ndarray) -> float:
    """The largest gap between two empirical distributions (Kolmogorov and Smirnov)."""
    places = np.sort(np.concatenate([ones, others]))
    shares = [np.searchsorted(np.sort(values), places, side="right") / len(values) for values in (ones, others)]
    return float(np.abs(shares[0] - shares[1]).max())


DRAWS = 1500
ALIKE = 1.95 * (2 / DRAWS) ** 0.5  # exceeded once in 1000 times by two samples of the same distribution


@cache
def courses(name: str, count: int = DRAWS, frames: int = 36) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(sum(map(ord, name)))
    found = []
    for _ in range(count):
        motion = draw_motion(name, frames, rng)
        found.append({"x": motion.x % 1, "y": motion.y % 1, "size": motion.radius})
    return found


def test_a_random_frame_has_the_same_place_and_size_in_every_class() -> None:
    rng = np.random.default_rng(0)
    for key in ("x", "y", "size"):
        by_class = [np.array([course[key][rng.integers(36)] for course in courses(name)]) for name in SAMPLE_CLASSES]
        for values in by_class[1:]:
            assert distance(by_class[0], values) < ALIKE


def test_opposite_classes_are_each_other_played_backwards() -> None:
    for forward, backward in (("grow", "shrink"), ("move_left", "move_right"), ("move_up", "move_down")):
        ones, others = courses(forward), courses(backward)
        for key in ("x", "y", "size"):
            for time in (0, 9, 17):
                ahead = [course[key][time] for course in ones]
                back = [course[key][35 - time] for course in others]
                assert distance(np.array(ahead), np.array(back)) < ALIKE


@pytest.mark.parametrize("name", SAMPLE_CLASSES)
def test_each_class_changes_one_property_in_its_direction(name: str) -> None:
    changed, sign = CHANGES[name]
    lengths = Counter()
    for _ in range(200):
        motion = draw_motion(name, 36, np.random.default_rng(_))
        steps = {"x": np.diff(motion.x), "y": np.diff(motion.y), "log_size": np.diff(np.log(motion.radius))}
        for key, step in steps.items():
            if key != changed:
                assert np.allclose(step, 0)
        moving = np.abs(steps[changed]) > 1e-9
        assert np.flatnonzero(moving).tolist() == list(range(motion.start_frame, motion.stop_frame))
        np.testing.assert_allclose(steps[changed][moving], sign * motion.speed, rtol=1e-6)
        lengths[motion.stop_frame - motion.start_frame] += 1
    assert len(lengths) > 8
    brief = sum(count for length, count in lengths.items() if length <= 8)
    assert 0.8 < brief / 200 < 0.95


def test_frames_before_and_after_do_not_tell_left_from_right() -> None:
    """Places wrap around: the way mod 1 is distributed alike, seen forward and backward."""
    for forward, backward, axis in (("move_left", "move_right", "x"), ("move_up", "move_down", "y")):
        ways = [np.array([(c[axis][-1] - c[axis][0]) % 1 for c in courses(name)]) for name in (forward, backward)]
        assert distance(*ways) < ALIKE
