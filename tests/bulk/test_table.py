"""A table grows by whole parts, and by one writer at a time."""

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset
import pytest

from atfr.bulk.engine import Outcome
from atfr.bulk.manifest import Video
from atfr.bulk.run import Commits, Writer, left_of, summary_of
from atfr.bulk.table import PartTakenError, Table
from atfr.bulk.tables import Bulk, key_of
from atfr.bulk.verify import verify
from tests.bulk.stubs import archive, network

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])
KEY = "0123456789abcdef"


def test_parts_are_numbered_and_any_reader_reads_them(tmp_path: Path) -> None:
    table = Table(str(tmp_path / "t"), SCHEMA)
    table.append([{"id": "a", "text": "1"}, {"id": "b", "text": "2"}])
    table.append([{"id": "c", "text": None}])
    again = Table(str(tmp_path / "t"), SCHEMA)
    again.append([{"id": "d", "text": "4"}])
    assert sorted(path.name for path in (tmp_path / "t").iterdir()) == [f"part-00000{n}.parquet" for n in range(3)]
    assert [row["id"] for batch in again.batches(["id"]) for row in batch.to_pylist()] == list("abcd")
    assert pyarrow.dataset.dataset(tmp_path / "t").count_rows() == 4


def test_a_writer_that_has_not_seen_the_last_part_is_refused(tmp_path: Path) -> None:
    """As a driver that was thought dead, and one that has taken its place."""
    first, second = Table(str(tmp_path), SCHEMA), Table(str(tmp_path), SCHEMA)
    first.append([{"id": "a", "text": "first"}])
    with pytest.raises(PartTakenError, match="another run has written"):
        second.append([{"id": "a", "text": "second"}])
    assert [row["text"] for batch in second.batches() for row in batch.to_pylist()] == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == ["part-000000.parquet"]


def _on_a_full_disk(folder: str) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))  # the system refuses to write more, as a full disk does
    bulk = Bulk(folder, KEY)
    writer = Writer(bulk, Commits())
    writer.add([outcome("b")])
    with pytest.raises(OSError, match="part-000001"):
        writer.commit(summary_of(bulk, left_of(bulk, f"{folder}/videos")))
    assert writer.broken


def outcome(name: str) -> Outcome:
    (row,) = network([_bytes(name)])
    return Outcome(Video(name, name), "0" * 64, row)


def _bytes(text: str) -> Any:
    import numpy as np

    return np.frombuffer(text.encode(), np.uint8)


def test_a_full_disk_leaves_the_parts_before_and_no_half_one(tmp_path: Path) -> None:
    archive(tmp_path / "videos", 2)
    bulk = Bulk(str(tmp_path), KEY)
    bulk.predictions.append([{"id": "a", "uri": "a", "configuration": KEY}])
    child = multiprocessing.get_context("spawn").Process(target=_on_a_full_disk, args=(str(tmp_path),))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert [path.name for path in (tmp_path / KEY / "predictions").iterdir()] == ["part-000000.parquet"]
    bulk.predictions.append([{"id": "b", "uri": "b", "configuration": KEY}])


def test_verify_lists_what_is_missing_twice_and_foreign(tmp_path: Path) -> None:
    videos = archive(tmp_path / "videos", 4)
    ids = [str(videos / f"v{number:03d}.mp4") for number in range(4)]
    bulk = Bulk(str(tmp_path), KEY)
    named = [{"id": one, "uri": one, "configuration": KEY} for one in ids]
    bulk.predictions.append([named[0], named[1], named[0]])
    bulk.errors.append([named[2] | {"kind": "video"}, named[0] | {"kind": "fetch"}])
    found = verify(bulk, str(videos))
    assert not found.whole
    assert (found.predicted, found.failed) == (1, {"video": 1})
    assert found.missing == [ids[3]]
    assert found.twice == [ids[0]]
    bulk.predictions.append([{"id": "elsewhere", "uri": "", "configuration": "another"}])
    assert (verify(bulk, str(videos)).foreign, verify(bulk, str(videos)).unlisted) == (1, 1)


def test_any_difference_of_the_configuration_is_another_key() -> None:
    one = {"sha256": "0" * 64, "num_bins": None, "views": 30, "crops": 3}
    others = [one | {"sha256": "1" * 64}, one | {"num_bins": 4}, one | {"views": 10}, one | {"crops": 1}]
    assert len({key_of(each) for each in [one, *others]}) == 5
    assert key_of(dict(reversed(one.items()))) == key_of(one)


def test_what_did_not_come_is_tried_again_and_what_was_given_up_only_on_demand(tmp_path: Path) -> None:
    videos = archive(tmp_path / "videos", 5)
    bulk = Bulk(str(tmp_path), KEY)
    kinds = ["video", "fetch", "killed", "slow"]
    ids = [str(videos / f"v{number:03d}.mp4") for number in range(4)]
    bulk.errors.append([{"id": one, "uri": one, "kind": kind} for one, kind in zip(ids, kinds, strict=True)])
    assert (left_of(bulk, str(videos)).state == 0).sum() == 2
    assert (left_of(bulk, str(videos), again=True).state == 0).sum() == 5
