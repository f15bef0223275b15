"""What is written is whole or not there, and goes where the path leads."""

import csv
import io
import os
import threading
from pathlib import Path

import pytest

from atfr.files import claimed, csv_text, whole, write_whole


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text("old")
    with pytest.raises(RuntimeError), whole(path) as scratch:
        raise RuntimeError(scratch.write_text("half"))
    assert [file.name for file in tmp_path.iterdir()] == ["a.html"]
    assert path.read_text() == "old"


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "a.html"
    link.symlink_to(Path("elsewhere") / "b.html")
    for text in ("first", "second"):
        write_whole(link, text)
        assert link.is_symlink()
        assert (tmp_path / "elsewhere" / "b.html").read_text() == text
    assert len(list(tmp_path.rglob("*"))) == 3


def test_a_pipe_and_a_device_are_written_to_and_stay(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_whole(tmp_path / "pipe", "text")
    reader.join(60)
    assert read == ["text"]
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "null").symlink_to("/dev/null")
    write_whole(tmp_path / "null", "text")
    assert (tmp_path / "null").is_char_device()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path}/full'"):
        write_whole(tmp_path / "full", "text")


def test_names_that_are_no_text_are_spelt_out(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, those of a locale without it, and half a character, as JSON may have it."""
    write_whole(tmp_path / "a.html", "\udcff caf\udcc3\udca9 ü")
    assert (tmp_path / "a.html").read_text("utf-8") == r"\xff café ü"
    write_whole(tmp_path / "a.html", "\ud800 ü")
    assert (tmp_path / "a.html").read_text("utf-8") == r"\ud800 ü"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"folder: '{tmp_path}'"):
        write_whole(tmp_path, "text")


def test_a_new_folder_is_one_process_s_and_gone_where_its_work_fails(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(BlockingIOError), claimed(out), claimed(out):
        pass
    assert not out.exists()
    with pytest.raises(RuntimeError), claimed(out):
        raise RuntimeError((out / "half").write_text("half"))
    assert not out.exists()
    (tmp_path / "ours").mkdir()
    with pytest.raises(RuntimeError), claimed(tmp_path / "ours" / "a" / "b"):
        raise RuntimeError
    assert [*(tmp_path / "ours").iterdir()] == []  # nor a parent that was made for it
    with claimed(out):
        (out / "whole").touch()
    for taken in (out, out / "whole"):
        with pytest.raises(FileExistsError), claimed(taken):
            pass
    assert (out / "whole").exists()


@pytest.mark.parametrize("name", ['=HYPERLINK("x")', "+1", "-1-1", "@a", "a\nb", 'a"b', "a,b", " a "])
def test_names_come_back_from_csv_as_they_are(name: str) -> None:
    """Also those that a spreadsheet takes for formulas: a changed name would be no file's."""
    assert [*csv.reader(io.StringIO(csv_text(["path"], [[name]]), newline=""))] == [["path"], [name]]
