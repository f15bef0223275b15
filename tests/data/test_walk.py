"""One walk of folders for all commands: links once, nothing hidden, every video ending, and a word on the rest."""

import logging
from pathlib import Path

import pytest

from atfr.data.records import read_folder
from atfr.data.walk import videos_below
from atfr.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes: one with a link to a folder elsewhere and a link back, and what macOS leaves behind."""
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    names = [
        "a/1.mp4",
        "a/._1.mp4",
        "a/.hidden/2.mp4",
        "a/notes.txt",
        "a/Thumbs.db",
        "b/3.GIF",
        "b/4.vob",
        "b/deep/5.dv",
    ]
    for path in [*(root / name for name in names), elsewhere / "6.mkv", elsewhere / "sub" / "7.webm"]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / "a" / "linked").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    (root / "b" / "again").symlink_to(elsewhere)
    return root


def test_videos_below(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="atfr"):
        found = videos_below(folder)
    assert sorted(path.name for path in found) == ["1.mp4", "3.GIF", "4.vob", "5.dv", "6.mkv", "7.webm"]
    (record,) = caplog.records
    assert f"'{folder}': 2 files that are no videos by their names are passed over" in record.getMessage()
    assert "notes.txt" in record.getMessage()


def test_classes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Videos lie in the folder of their class; a class may be a link."""
    (folder / "c").symlink_to(folder.parent / "elsewhere")
    (folder / "a" / "0.mp4").touch()
    (folder / "c" / "8.mkv").touch()
    with caplog.at_level(logging.INFO, logger="atfr"):
        splits = read_folder(folder)
    records = [record for each in splits.values() for record in each.records]
    assert sorted(record.path.name for record in records) == ["0.mp4", "1.mp4", "3.GIF", "4.vob", "6.mkv", "8.mkv"]
    (record,) = caplog.records
    assert "2 files" in record.getMessage()


def test_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "._x.mp4").touch()
    with pytest.raises(DataError, match="there is no video in"):
        videos_below(tmp_path)
