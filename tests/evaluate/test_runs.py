"""Results of tests: kept and read again, named, compared; and what is said where that cannot be."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from atfr.errors import DataError, InputError
from atfr.evaluate.result import Skipped, TestResult
from atfr.evaluate.runs import bases, paired_difference, read_result, read_runs, short_names, why_not_comparable
from tests.evaluate.made_up import SGS, made_up

SLOWFAST = {"res2.fast": 32, "res2.slow": 8}


@pytest.mark.parametrize("sites", [{}, {"res2": 16}, SLOWFAST])
def test_a_result_comes_back_as_it_was(sites: dict[str, int], tmp_path: Path) -> None:
    odd = made_up(videos=12, sites=sites)
    videos = (replace(odd.videos[0], path="/data/\udcff é.mp4", warning="cut short"), *odd.videos[1:])
    result = replace(odd, videos=videos, skipped=(Skipped("bad.mp4", "no video"),))
    result.save(tmp_path / "RUN" / "test")
    for given in (tmp_path / "RUN", tmp_path / "RUN" / "test", tmp_path / "RUN" / "test" / "result.json"):
        assert read_result(given) == result
    lines = (tmp_path / "RUN" / "test" / "result.json").read_text().splitlines()
    assert sum('"path": "/data/' in line for line in lines) == 12  # a video a line
    rows = list(csv.DictReader((tmp_path / "RUN" / "test" / "videos.csv").read_text().splitlines()))
    assert rows[0]["path"] == "/data/\\xff é.mp4"
    for row, video in zip(rows, result.videos, strict=True):
        assert [float(value) for value in row["motion"].split()] == list(video.motion)
        for site, counts in video.sites.items():
            assert [int(value) for value in row[f"dropped {site}"].split()] == list(counts.dropped)
    skipped = list(csv.reader(io.StringIO((tmp_path / "RUN" / "test" / "skipped.csv").read_text())))
    assert skipped == [["path", "reason"], ["bad.mp4", "no video"]]
    replace(result, skipped=()).save(tmp_path / "RUN" / "test")
    assert not (tmp_path / "RUN" / "test" / "skipped.csv").exists()


def test_what_is_no_result_is_said_with_what_to_do(tmp_path: Path) -> None:
    def error_of(run: Path) -> str:
        with pytest.raises(DataError) as error:
            read_result(run)
        return str(error.value)

    assert "does not exist" in error_of(tmp_path / "none")
    trained = tmp_path / "trained"
    trained.mkdir()
    assert "there is no result of a test in" in error_of(trained)
    (trained / "config.json").write_text("{}")
    assert f"was not tested; test it: atfr test --checkpoint {trained} --data" in error_of(trained)
    made_up(videos=6).save(tmp_path / "runs" / "a" / "test")
    assert f"do you mean {tmp_path / 'runs' / 'a'}?" in error_of(tmp_path / "runs")
    path = tmp_path / "result.json"
    for content, told in (
        ("{", "cannot be read as JSON"),
        ("[]", "no result of a test, or not a complete one: a value is of another kind"),
        ('{"rows": {}}', "no result of a test, or not a complete one: it has no 'videos'; give the folder of a tested"),
        ('{"splits": {}}', "holds means over splits"),
        (json.dumps(made_up(videos=6).to_dict() | {"videos": []}), "there are no videos"),
        (json.dumps(made_up(videos=6).to_dict() | {"videos": [{}]}), "not a complete one: it has no 'active_bins'"),
    ):
        path.write_text(content)
        assert told in error_of(path)
        assert str(path) in error_of(path)
    older = made_up(videos=6).to_dict()
    del older["labels"]
    path.write_text(json.dumps(older))
    assert "it has no 'labels'" in error_of(path)
    path.write_bytes(b"\xff\xfe")
    assert "cannot be read as JSON" in error_of(path)


def test_runs_have_the_shortest_names_that_tell_them_apart(tmp_path: Path) -> None:
    def names(*files: str) -> list[str]:
        return short_names([Path(file) for file in files])

    assert names("/runs/static/test/result.json", "/runs/adaptive/test/result.json") == ["static", "adaptive"]
    assert names("/a/x/result.json", "/b/x/test/result.json") == ["a/x", "b/x"]
    assert names("/a/x/result.json", "/a/x/test/result.json") == ["x/result.json", "test/result.json"]
    assert names("/a/one.json", "/a/two.json", "/c/two.json") == ["a/one.json", "a/two.json", "c/two.json"]
    assert names("/x/test/result.json") == ["x"]
    made_up(videos=6).save(tmp_path / "a" / "test")
    with pytest.raises(InputError, match="is given twice"):
        read_runs([tmp_path / "a", tmp_path / "a" / "test"])


def test_what_cannot_be_compared_is_said() -> None:
    result = made_up(videos=12)
    assert why_not_comparable(result, replace(result, network={}, timing={}, ms_per_clip=1.0)) == []
    moved = tuple(replace(video, path=f"/elsewhere{video.path}") for video in result.videos)
    assert why_not_comparable(result, replace(result, videos=moved)) == []
    fewer = replace(result, videos=result.videos[:9])
    assert why_not_comparable(result, fewer) == ["other test videos (12 and 9, 9 of them in both)"]
    told_otherwise = replace(result.videos[0], label="class 005")
    relabelled = replace(result, videos=(told_otherwise, *result.videos[1:]))
    assert why_not_comparable(result, relabelled) == ["other test videos (12 and 12, 11 of them in both)"]
    assert why_not_comparable(result, replace(result, labels=result.labels[:5])) == ["other classes (6 and 5)"]
    clips = replace(result, views=result.views | {"frames": 8, "places": "random", "seed": 1})
    assert why_not_comparable(result, clips) == [
        "other clips (places uniform and random, frames 16 and 8, seed None and 1)"
    ]


def test_a_static_run_is_the_base_of_the_same_network_on_the_same_clips() -> None:
    static, adaptive = made_up(sites={}), made_up()
    uniform = replace(adaptive, network={**adaptive.network, "sgs": {**SGS, "sampler": "uniform"}})
    other = replace(adaptive, network={**adaptive.network, "model": "x3d_s"})
    elsewhere = replace(adaptive, videos=adaptive.videos[:30])
    runs = {"a": adaptive, "s": static, "u": uniform, "o": other, "e": elsewhere}
    assert bases(runs) == {"a": "s", "u": "s"}


def test_a_paired_difference_is_that_of_resampled_videos() -> None:
    first, second = made_up(videos=200, seed=1, accuracy=0.7), made_up(videos=200, seed=2, accuracy=0.8)
    found = paired_difference(second, first)
    gaps = np.array([b.correct - a.correct for a, b in zip(first.videos, second.videos, strict=True)], dtype=float)
    assert found.mean == pytest.approx(gaps.mean())
    assert (found.gained, found.lost) == ((gaps > 0).sum(), (gaps < 0).sum())
    picks = np.random.default_rng(1).integers(0, 200, (20_000, 200))
    low, high = np.quantile(gaps[picks].mean(1), (0.025, 0.975))
    assert found.low == pytest.approx(low, abs=0.011)  # two of 200 videos
    assert found.high == pytest.approx(high, abs=0.011)
    same = paired_difference(first, first)
    assert (same.mean, same.low, same.high, same.gained, same.lost, same.p) == (0, 0, 0, 0, 0, 1)
    backwards = replace(second, videos=second.videos[::-1])
    assert paired_difference(backwards, first) == found  # by path, not by place


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 5), (7, 2), (6, 6), (12, 1)])
def test_p_is_the_share_of_equally_good_networks_that_differ_as_unevenly(gained: int, lost: int) -> None:
    """McNemar's exact test, by counting: of the videos that one alone tells right, each is as likely to tell."""
    first = made_up(videos=30, accuracy=1)
    right = [*[(True, False)] * gained, *[(False, True)] * lost, *[(True, True)] * (30 - gained - lost)]
    ours, theirs = (
        replace(
            first,
            videos=tuple(replace(video, rank=2 - pair[side]) for video, pair in zip(first.videos, right, strict=True)),
        )
        for side in (0, 1)
    )
    single = gained + lost
    as_uneven = [heads for heads in range(single + 1) if abs(2 * heads - single) >= abs(gained - lost)]
    expected = sum(math.comb(single, heads) for heads in as_uneven) / 2**single
    found = paired_difference(ours, theirs)
    assert (found.gained, found.lost, found.p) == (gained, lost, pytest.approx(expected))
    assert ("may be chance" in found.certainty) == (expected >= 0.05)


def test_a_result_is_json_without_what_only_python_reads() -> None:
    result: TestResult = made_up(videos=6)
    result = replace(result, videos=(replace(result.videos[0], probability=math.nan), *result.videos[1:]))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    values = json.loads(result.to_json(), parse_constant=refuse)
    assert values["num_videos"] == 6
    assert math.isnan(TestResult.from_dict(values).videos[0].probability)
    assert TestResult.from_dict(values).videos[1:] == result.videos[1:]
