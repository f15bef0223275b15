"""Folders and CSV files become lists of videos, or one clear error. The readers do not open the videos."""

import os
from collections import Counter
from pathlib import Path

import pytest

from atfr.data.records import VideoList, VideoRecord, read_csv, read_folder
from atfr.errors import DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ut_interaction"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def numbered(pattern: str, count: int) -> list[str]:
    return [pattern.format(i) for i in range(count)]


def names(video_list: VideoList) -> list[str]:
    return [f"{video_list.labels[record.label]}/{record.path.name}" for record in video_list.records]


def table(root: Path, text: str) -> Path:
    path = root / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


# Folders


def test_split_folders(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/b/1.mp4", "train/a/2.AVI", "test/a/3.mkv", "test/b/4.mp4", "test/b/notes.txt")
    splits = read_folder(root)
    assert set(splits) == {"train", "test"}
    assert splits["train"].labels == splits["test"].labels == ("a", "b")
    assert names(splits["train"]) == ["a/2.AVI", "b/1.mp4"]
    assert names(splits["test"]) == ["a/3.mkv", "b/4.mp4"]


def test_val_stands_in_for_test_and_stands_beside_it(tmp_path: Path) -> None:
    root = touch(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "val/a/3.mp4")
    assert names(read_folder(root)["test"]) == ["a/3.mp4"]
    touch(root, "test/b/4.mp4")
    splits = read_folder(root)
    assert names(splits["test"]) == ["b/4.mp4"]
    assert names(splits["val"]) == ["a/3.mp4"]


def test_hold_out_is_stratified_disjoint_and_decided_by_the_seed(tmp_path: Path) -> None:
    root = touch(tmp_path, *numbered("a/{}.mp4", 40), *numbered("b/{}.mp4", 3), *numbered("ü ü/{}.mp4", 2))
    splits = read_folder(root)
    counts = {split: Counter(record.label for record in splits[split].records) for split in splits}
    assert counts == {"train": {0: 32, 1: 2, 2: 1}, "test": {0: 8, 1: 1, 2: 1}}
    assert not {record.path for record in splits["train"].records} & {record.path for record in splits["test"].records}
    assert read_folder(root) == splits
    assert names(read_folder(root, seed=1)["test"]) != names(splits["test"])
    assert len(read_folder(root, test_share=0.5)["test"]) == 20 + 2 + 1
    assert len(read_folder(root, test_share=0.99)["train"]) == 1 + 1 + 1


def test_names_that_are_no_text_are_held_out_too(tmp_path: Path) -> None:
    for name in ("a", "b"):
        for number in range(3):
            (tmp_path / name).mkdir(exist_ok=True)
            try:
                Path(os.fsdecode(os.fsencode(tmp_path / name) + b"/\xff%d.mp4" % number)).touch()
            except OSError:
                pytest.skip("this file system takes names in UTF-8 only")
    assert {split: len(videos) for split, videos in read_folder(tmp_path).items()} == {"train": 4, "test": 2}


def test_class_may_be_called_train(tmp_path: Path) -> None:
    root = touch(tmp_path, *numbered("train/{}.mp4", 2), *numbered("bus/{}.mp4", 2))
    assert read_folder(root)["train"].labels == ("bus", "train")


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    root = touch(tmp_path, *numbered("a/{}.mp4", 2), *numbered("b/{}.mp4", 2), "a/.x.mp4", ".c/1.mp4", "readme.txt")
    splits = read_folder(root)
    assert len(splits["train"]) + len(splits["test"]) == 4
    assert splits["train"].labels == ("a", "b")


def test_labels_of_a_trained_network(tmp_path: Path) -> None:
    root = touch(tmp_path, *numbered("a/{}.mp4", 2), *numbered("b/{}.mp4", 2))
    splits = read_folder(root, labels=["z", "b", "a"])
    assert splits["test"].labels == ("z", "b", "a")
    assert sorted(record.label for record in splits["test"].records) == [1, 2]
    with pytest.raises(DataError, match=r"class 'b' that is not among.*close: bb"):
        read_folder(root, labels=["a", "bb", "c"])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "expected a folder for each class"),
        (["1.mp4", "2.mp4"], "expected a folder for each class"),
        (["a/1.txt", "b/1.mp4"], "holds no video"),
        (["a/1.mp4", "a/2.mp4"], "one class only"),
        (["a/1.mp4", "b/1.mp4", "b/2.mp4"], "class 'a' has one video"),
        (["train/a/1.mp4", "train/b/1.mp4"], "needs a 'test' or 'val' folder beside it"),
        (["train/a/1.mp4", "train/b/1.mp4", "test/c/1.mp4"], "class 'c' .* has no training video"),
    ],
)
def test_wrong_folders(tmp_path: Path, files: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_folder(touch(tmp_path, *files))
    assert str(tmp_path) in str(caught.value)


def test_missing_folder_and_wrong_share(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_folder(tmp_path / "no")
    touch(tmp_path, *numbered("a/{}.mp4", 2), *numbered("b/{}.mp4", 2))
    with pytest.raises(DataError, match="is a file"):
        read_folder(tmp_path / "a" / "0.mp4")
    with pytest.raises(DataError, match="test_share"):
        read_folder(tmp_path, test_share=1.0)


# CSV


def test_csv_with_names_and_split(tmp_path: Path) -> None:
    touch(tmp_path, "v/1.mp4", "v/ü 2.mp4", "v/3.mp4", "v/4.mp4")
    rows = ["path,label,split,note", "v/1.mp4,run,train,x", "v/ü 2.mp4, jump ,train,", "v/3.mp4,run,test,"]
    text = "\ufeff" + "\n".join([*rows, "v/4.mp4,jump,val,"])
    splits = read_csv(table(tmp_path, text))
    assert splits["train"].labels == ("jump", "run")
    assert {split: names(video_list) for split, video_list in splits.items()} == {
        "train": ["run/1.mp4", "jump/ü 2.mp4"],
        "val": ["jump/4.mp4"],
        "test": ["run/3.mp4"],
    }


def test_csv_numbers_keep_their_order_whatever_the_names(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("{}.mp4", 4))
    text = "path,label,name,split\n0.mp4,1,a,train\n1.mp4,0,z,train\n2.mp4,1,a,test\n3.mp4,0,z,test\n"
    splits = read_csv(table(tmp_path, text))
    assert splits["train"].labels == ("z", "a")
    assert [record.label for record in splits["train"].records] == [1, 0]
    unnamed = read_csv(table(tmp_path, text.replace("name", "other")))
    assert unnamed["train"].labels == ("0", "1")
    renamed = read_csv(table(tmp_path, text), labels=["a", "q", "z"])  # a network that knows them in another order
    assert [record.label for record in renamed["train"].records] == [0, 2]


def test_csv_ten_classes_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("{}.mp4", 24))
    rows = "".join(f"{i}.mp4,{i % 12},{'train' if i < 12 else 'test'}\n" for i in range(24))
    assert read_csv(table(tmp_path, "path,label,split\n" + rows))["train"].labels == tuple(map(str, range(12)))


def test_csv_folds_root_and_hold_out(tmp_path: Path) -> None:
    videos = touch(tmp_path / "videos", *numbered("{}.mp4", 6))
    rows = "".join(f"{i}.mp4,{'ab'[i % 2]},{i // 2}\n" for i in range(6))
    path = table(tmp_path, "path,label,fold\n" + rows)
    splits = read_csv(path, root=videos, test_fold=1)
    assert names(splits["test"]) == ["a/2.mp4", "b/3.mp4"]
    assert names(splits["train"]) == ["a/0.mp4", "b/1.mp4", "a/4.mp4", "b/5.mp4"]
    with pytest.raises(DataError, match=r"\[0, 1, 2\].*test_fold=0 for one \(--test_fold 0 on"):
        read_csv(path, root=videos)
    with pytest.raises(DataError, match=r"no fold 3, only \[0, 1, 2\]"):
        read_csv(path, root=videos, test_fold=3)
    plain = table(tmp_path, "path,label\n" + "".join(f"{i}.mp4,{'ab'[i % 2]}\n" for i in range(6)))
    splits = read_csv(plain, root=videos)
    assert sorted(record.label for record in splits["test"].records) == [0, 1]
    with pytest.raises(DataError, match="no column 'fold'"):
        read_csv(plain, root=videos, test_fold=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "columns path and label, got an empty file"),
        ("file,label\n0.mp4,a\n", "columns path and label"),
        ("path,label\n", "lists no video"),
        ("path,label\n0.mp4\n", "line 2: expected 2 values"),
        ("path,label\n0.mp4,a,b\n", "line 2: expected 2 values"),
        ("path,label\n0.mp4,a\n1.mp4,\n", "line 3: path and label must not be empty"),
        ("path,label\n0.mp4,a\nx.mp4,b\ny.mp4,b\n", "2 of 3 videos do not exist, first .*x.mp4' .line 3"),
        ("path,label\n0.mp4,a\n1.mp4,b\n0.mp4,b\n", "listed twice, line 2 and line 4"),
        ("path,label,split\n0.mp4,a,train\n1.mp4,b,tset\n", "line 3: split must be train, val or test, got 'tset'"),
        ("path,label,split\n0.mp4,a,train\n1.mp4,b,train\n", "no video for split 'test'"),
        ("path,label,split\n0.mp4,a,test\n1.mp4,b,test\n", "no video for split 'train'"),
        ("path,label,split\n0.mp4,a,train\n1.mp4,b,test\n", "class 'b' .* has no training video"),
        ("path,label,split\n0.mp4,a,train\n1.mp4,a,test\n", "one class only .a."),
        ("path,label\n0.mp4,0\n1.mp4,-1\n", "line 3: label -1 is out of range"),
        ("path,label\n0.mp4,0\n1.mp4,2\n", "no video has label 1 and one has 2"),
        ("path,label,name\n0.mp4,0,a\n1.mp4,0,b\n", "line 3: label 0 is named 'b' here and 'a' before"),
        ("path,label,name\n0.mp4,0,a\n1.mp4,1,a\n", "two labels have the same name 'a'"),
        ("path,label,fold\n0.mp4,0,x\n1.mp4,1,0\n", "line 2: fold must be a whole number, got 'x'"),
    ],
)
def test_wrong_csv(tmp_path: Path, text: str, message: str) -> None:
    touch(tmp_path, *numbered("{}.mp4", 4))
    with pytest.raises(DataError, match=message) as caught:
        read_csv(table(tmp_path, text))
    assert "list.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_csv_out_of_range_for_a_network(tmp_path: Path) -> None:
    touch(tmp_path, *numbered("{}.mp4", 4))
    with pytest.raises(DataError, match="label 2 is out of range, expected 0 to 1"):
        read_csv(table(tmp_path, "path,label\n0.mp4,0\n1.mp4,2\n"), labels=["a", "b"])


def test_csv_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_csv(tmp_path / "no.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(DataError, match="no CSV file in UTF-8"):
        read_csv(tmp_path / "binary.csv")


def test_real_manifest() -> None:
    if not REAL.is_dir():
        pytest.skip(f"needs the real videos in {REAL}")
    tested: list[Path] = []
    for fold in range(5):
        splits = read_csv(REAL / "manifest.csv", test_fold=fold)
        assert splits["train"].labels == ("shake", "hug", "kick", "point", "punch", "push")
        assert len(splits["train"]) + len(splits["test"]) == 120
        assert all(video.path.parent.name == splits["test"].labels[video.label] for video in splits["test"].records)
        tested += [record.path for record in splits["test"].records]
    assert len(set(tested)) == len(tested) == 120
    splits = read_folder(REAL)
    assert len(splits["train"]), len(splits["test"]) == (96, 24)


def test_video_list_checks_its_labels() -> None:
    with pytest.raises(DataError, match=r"'x.mp4' is out of range: 2, with 2 classes"):
        VideoList((VideoRecord(Path("x.mp4"), 2),), ("a", "b"))
    with pytest.raises(DataError, match="at least one video"):
        VideoList((), ("a", "b"))


def test_a_test_split_alone_is_enough_for_a_trained_networks_labels(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"x")
    table = tmp_path / "only.csv"
    table.write_text("path,label,split\na.mp4,jump,test\nb.mp4,run,test\n", encoding="utf-8")
    with pytest.raises(DataError, match="'train'"):
        read_csv(table)
    splits = read_csv(table, labels=("jump", "run", "walk"))
    assert [record.label for record in splits["test"].records] == [0, 1]


def test_names_that_look_the_same_are_one_class(tmp_path: Path) -> None:
    """A name composed (as Linux mostly has it) and decomposed (as macOS unpacks it)."""
    composed, apart = "caf\u00e9", "cafe\u0301"
    root = touch(tmp_path / "d", f"{composed}/1.mp4", f"{composed}/2.mp4", f"{apart}/3.mp4", "b/1.mp4", "b/2.mp4")
    splits = read_folder(root)
    assert splits["train"].labels == ("b", composed)
    assert sum(record.label == 1 for each in splits.values() for record in each.records) == 3
    again = read_folder(root, labels=("b", apart))
    assert again["test"].labels == ("b", apart)
    text = "path,label,split\n" + "".join(
        f"d/{name},{label},{split}\n"
        for name, label, split in [
            (f"{composed}/1.mp4", apart, "train"), (f"{apart}/3.mp4", composed, "test"), ("b/1.mp4", "b", "train"),
        ]
    )  # fmt: skip
    assert read_csv(table(tmp_path, text))["test"].labels == ("b", composed)
