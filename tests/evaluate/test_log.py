"""Predictions in a file: each at once, none lost, none twice, and no other file touched."""

import json
import math
import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from atfr.errors import InputError, VideoError
from atfr.evaluate.log import PredictionLog, identity
from atfr.evaluate.predict import Prediction
from atfr.evaluate.task import Task
from tests.evaluate.build import NAMES, SPEC, network

BY = {"network": "run", "views": 30}


def prediction(path: str) -> Prediction:
    return Prediction(Path(path), ("a", "b"), torch.tensor([0.25, 0.75]).double(), {"res2": (3,)}, (1.5,), 2.0, 1.0)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_is_there_at_once_and_a_second_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with PredictionLog(out, BY) as log:
        log.add(prediction("1.mp4"))
        assert [line["path"] for line in lines(out)] == ["1.mp4"]
        log.add_failed(Path("2.mp4"), VideoError("'2.mp4' is no video"))
    assert lines(out)[0] == prediction("1.mp4").to_dict() | {"error": None} | BY
    assert lines(out)[1] == {"path": "2.mp4", "error": "'2.mp4' is no video"} | BY
    with PredictionLog(out, BY) as log:
        paths = [Path(name) for name in ("1.mp4", "2.mp4", "3.mp4", "3.mp4")]
        assert [str(path) for path in log.left(paths)] == ["2.mp4", "3.mp4"]
        log.add(prediction("2.mp4"))
    assert [line["path"] for line in lines(out)] == ["1.mp4", "2.mp4", "2.mp4"]


@pytest.mark.parametrize("more", [{"precision": "bfloat16"}, {"settled": 0.5, "most_views": 30}])
def test_what_only_some_lines_tell_apart_is_not_mixed(tmp_path: Path, more: dict[str, object]) -> None:
    """Views that stopped have the number of those computed, which may be that of others that did not."""
    for first, then in ((BY, BY | more), (BY | more, BY)):
        out = tmp_path / f"{len(first)}.jsonl"
        with PredictionLog(out, first) as log:
            log.add(prediction("1.mp4"))
        written = out.read_bytes()
        with pytest.raises(InputError, match=rf"has predictions of .*{next(iter(more))}.*; give a new file"):
            PredictionLog(out, then)
        assert out.read_bytes() == written


def test_a_crash_at_any_byte_costs_one_line_at_most(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with PredictionLog(out, BY) as log:
        for name in ("1.mp4", "ü\udcff.mp4"):
            log.add(prediction(name))
    whole = out.read_bytes()
    for size in range(len(whole) + 1):
        out.write_bytes(whole[:size])
        with PredictionLog(out, BY) as log:
            assert len(log.done) == whole[:size].count(b"\n")
            for path in log.left([Path("1.mp4"), Path("ü\udcff.mp4")]):
                log.add(prediction(str(path)))
        assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("notes of mine", "line 1 of '.*' is no prediction"),
        ('{"path": "1.mp4"}\n', r"is no prediction \(KeyError: 'error'\)"),
        ("[1]\n", "is no prediction"),
        ('{"path": "1.mp4", "network": "run", "views": 30}\n', "is no prediction .*'error'"),
        (
            '{"path": "1.mp4", "network": "other", "views": 30, "error": null}\n',
            r"predictions of \{'network': 'other'\}, not of \{'network': 'run'\};",
        ),
        ('{"path": "1.mp4", "network": "run", "error": null}\n', "predictions of .*, not of .*'views'"),
    ],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: str, message: str) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text(content)
    with pytest.raises(InputError, match=message):
        PredictionLog(out, BY)
    assert out.read_text() == content


def test_what_is_no_number_is_null(tmp_path: Path) -> None:
    nan = replace(prediction("1.mp4"), scores=torch.tensor([math.nan, math.nan]).double())
    with PredictionLog(tmp_path / "out.jsonl", {}) as log:
        log.add(nan)
    (line,) = lines(tmp_path / "out.jsonl")
    assert [one["probability"] for one in line["top"]] == [None, None]


def test_a_second_writer_is_refused_and_nothing_but_a_file_is_taken(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with PredictionLog(out, BY) as log:
        log.add(prediction("1.mp4"))
        with pytest.raises(InputError, match="another process writes predictions"):
            PredictionLog(out, BY)
        log.add(prediction("2.mp4"))
    with PredictionLog(out, BY) as log:
        assert log.done == {"1.mp4", "2.mp4"}
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match="expected a file for predictions"):
            PredictionLog(path, BY)
    (tmp_path / "link.jsonl").symlink_to(out)
    with PredictionLog(tmp_path / "link.jsonl", BY) as log:
        assert log.done == {"1.mp4", "2.mp4"}


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    out = tmp_path / "out.jsonl"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
        with pytest.raises(OSError, match=f"too large: '{out}'"), PredictionLog(out, BY) as log:
            log.add(prediction("1.mp4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_network_is_known_by_its_weights_settings_and_labels() -> None:
    model, task = network(), Task(NAMES, SPEC)
    found = {identity(network(), task)}
    assert found == {identity(model, task)}
    found.add(identity(model, Task(NAMES[::-1], SPEC)))
    found.add(identity(model, Task(NAMES, replace(SPEC, frames=8))))
    found.add(identity(network(adapted=False), task))
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    found.add(identity(model, task))
    assert len(found) == 5
