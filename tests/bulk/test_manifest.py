"""What a manifest lists, and what is left of it."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atfr.bulk.manifest import DONE, LEFT, Ledger, Video, read_manifest
from atfr.errors import DataError, InputError
from tests.bulk.stubs import archive


def listed(manifest: object) -> list[Video]:
    return [video for block in read_manifest(str(manifest)) for video in block]


def test_a_folder_a_pattern_a_csv_and_a_parquet_list_the_same(tmp_path: Path) -> None:
    folder = archive(tmp_path / "a", 3)
    archive(folder / "below", 2)
    (folder / "notes.txt").write_text("no video")
    (folder / ".hidden.mp4").write_text("none either")
    paths = sorted(str(path) for path in folder.rglob("v*.mp4"))
    relative = [str(Path(path).relative_to(tmp_path)) for path in paths]
    (tmp_path / "list.csv").write_text("path,other\n" + "".join(f'"{path}",1\n' for path in relative))
    pq.write_table(pa.table({"path": relative}), tmp_path / "list.parquet")
    for manifest in (folder, f"{folder}/**/v*.mp4", tmp_path / "list.csv", tmp_path / "list.parquet"):
        assert sorted(listed(manifest)) == [Video(path, path) for path in paths]


def test_ids_may_be_others_than_paths_and_stay_text(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("id,path\n007,/a.mp4\n1e3,s3://b/c.mp4\n")
    assert listed(tmp_path / "list.csv") == [Video("007", "/a.mp4"), Video("1e3", "s3://b/c.mp4")]


def test_what_is_no_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not there"):
        listed(tmp_path / "nothing.csv")
    with pytest.raises(InputError, match="cannot be opened"):
        listed("nonsense://a/b")
    (tmp_path / "list.csv").write_text("file\na.mp4\n")
    with pytest.raises(DataError, match="needs a column 'path'"):
        listed(tmp_path / "list.csv")
    (tmp_path / "list.parquet").write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        listed(tmp_path / "list.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="lists no video"):
        listed(tmp_path / "empty")
    (tmp_path / "list.csv").write_text("id,path\n,a.mp4\n")
    with pytest.raises(DataError, match="without a path or an id"):
        listed(tmp_path / "list.csv")


def test_a_ledger_gives_each_video_that_is_left_once() -> None:
    videos = [Video(f"id{number}", f"/{number}.mp4") for number in range(1000)]
    ledger = Ledger([videos[:600], videos[600:], videos[:5]])
    assert len(ledger) == 1000
    ledger.mark(["id3", "id999", "not listed"], DONE)
    left = list(ledger.left([videos[:600], videos[600:], videos[:5]]))
    assert left == [video for video in videos if video.id not in ("id3", "id999")]
    assert ledger.count(LEFT) == 0
    with pytest.raises(DataError, match="the same id to several videos"):
        Ledger([[Video("a", "/1.mp4"), Video("a", "/2.mp4")]])
