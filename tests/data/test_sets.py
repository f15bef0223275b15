"""The data sets of the field in their real layout, tiny: what is listed, found and missing. No video is read."""

import json
from collections import Counter
from pathlib import Path

import pytest

from atfr.data.sets import DATA_SETS, HMDB51, UCF101, Kinetics400, Kinetics600, MiniKinetics200, SomethingSomethingV2
from atfr.data.sets.listed import ListedSet
from atfr.errors import DataError
from tests.data.layouts import hmdb51, kinetics, lines, mini_kinetics, ssv2, touch, ucf101


def found(data: ListedSet, split: str) -> dict[str, str]:
    """The files found for a split, each with the name of its class."""
    video_list = data.video_lists()[split]
    return {record.path.name: video_list.labels[record.label] for record in video_list.records}


def names(data: ListedSet) -> list[str]:
    return [video.name for video in data.missing]


# UCF101


def test_ucf101(tmp_path: Path) -> None:
    data = UCF101.read(ucf101(tmp_path), 1)
    assert data.labels == ("ApplyEyeMakeup", "HandstandPushups", "YoYo")  # the order of classInd.txt
    assert found(data, "train") == {
        "v_ApplyEyeMakeup_g08_c01.avi": "ApplyEyeMakeup",
        "v_HandStandPushups_g08_c01.avi": "HandstandPushups",
        "v_YoYo_g08_c01.avi": "YoYo",
    }
    assert found(data, "test") == {
        "v_ApplyEyeMakeup_g01_c01.avi": "ApplyEyeMakeup",
        "v_HandStandPushups_g01_c01.avi": "HandstandPushups",
        "v_YoYo_g01_c01.avi": "YoYo",
    }
    assert data.missing == ()
    assert found(UCF101.read(tmp_path, 2), "test") == found(data, "train")  # the split decides


def test_ucf101_without_regard_to_capitals_folders_and_container(tmp_path: Path) -> None:
    root = ucf101(tmp_path / "lists", videos=False)
    touch(root, "v_HandstandPushups_g08_c01.mp4", "all/deep/v_YoYo_g01_c01.webm")
    data = UCF101.read(root, 1)
    assert {video.name: video.path and video.path.name for video in data.videos if video.path} == {
        "HandstandPushups/v_HandStandPushups_g08_c01.avi": "v_HandstandPushups_g08_c01.mp4",
        "YoYo/v_YoYo_g01_c01.avi": "v_YoYo_g01_c01.webm",
    }
    assert len(data.missing) == 4


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("classInd.txt", "1 ApplyEyeMakeup\n3 YoYo\n", "line 2: expected '2 ClassName', got '3 YoYo'"),
        ("classInd.txt", "", "is empty"),
        ("trainlist01.txt", "Juggling/v_Juggling_g01_c01.avi 1\n", "line 1: 'Juggling' is no class of classInd.txt"),
        ("testlist01.txt", None, "expected the list testlist01.txt"),
    ],
)
def test_ucf101_with_wrong_lists(tmp_path: Path, file: str, text: str | None, message: str) -> None:
    root = ucf101(tmp_path)
    path = root / "ucfTrainTestlist" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        UCF101.read(root, 1)
    assert str(root) in str(caught.value)


# HMDB51


def test_hmdb51(tmp_path: Path) -> None:
    data = HMDB51.read(hmdb51(tmp_path), 1)
    assert data.labels == ("brush_hair", "cartwheel")
    assert found(data, "train") == {
        "April_09_brush_hair_u_nm_np1_ba_goo_0.avi": "brush_hair",
        "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi": "cartwheel",
    }
    assert found(data, "test") == {
        "April_09_brush_hair_u_nm_np1_ba_goo_1.avi": "brush_hair",
        "#437_Rad_cartwheel_f_cm_np1_ri_med_2.avi": "cartwheel",
    }
    assert len(data.videos) == 4  # those marked 0 are in neither split


@pytest.mark.parametrize("line", ["a.avi 3", "a.avi", "a b.avi 1"])
def test_hmdb51_with_wrong_lists(tmp_path: Path, line: str) -> None:
    root = hmdb51(tmp_path)
    path = root / "testTrainMulti_7030_splits" / "cartwheel_test_split1.txt"
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError, match=f"line 4: expected 'video.avi 0', 1 or 2, got '{line}'"):
        HMDB51.read(root, 1)
    with pytest.raises(DataError, match=r"brush_hair_test_split2.txt .* there is none"):
        HMDB51.read(touch(tmp_path / "other", "x.avi"), 2)


@pytest.mark.parametrize("kind", [UCF101, HMDB51])
def test_a_split_is_asked_for(tmp_path: Path, kind: type[ListedSet]) -> None:
    for split, message in ((None, "none was given"), (4, "got 4")):
        with pytest.raises(DataError, match=rf"has the splits 1, 2, 3; name one, {message}"):
            kind.read(tmp_path, split)


# Kinetics


@pytest.mark.parametrize("kind", [Kinetics400, Kinetics600])
def test_kinetics(tmp_path: Path, kind: type[ListedSet]) -> None:
    """CVDF's layout, a video called by its id alone, one in a class folder, a fifth missing."""
    data = kind.read(kinetics(tmp_path))
    assert data.labels == ("abseiling", "baking cookies", "zumba")  # zumba: none of its training videos is there
    assert found(data, "train") == {
        "-3B32lodo2M_000059_000069.mp4": "abseiling",
        "_dbcJuKJQNs.webm": "baking cookies",
        "0zzzzzzzzzz_000001_000011.mp4": "abseiling",
    }
    assert found(data, "test") == {
        "val_abseili_000000_000010.mp4": "abseiling",
        "val_zumba_0_000123_000133.mp4": "zumba",
    }
    assert names(data) == ["gone_away00_000007_000017.mp4"]


@pytest.mark.parametrize("train", ["kinetics_train.csv", "kinetics-400_train.csv", "k400_train.csv"])
@pytest.mark.parametrize("val", ["validate.csv", "kinetics_validation.csv", "kinetics600_val.csv"])
def test_kinetics_lists_under_other_names(tmp_path: Path, train: str, val: str) -> None:
    root = kinetics(tmp_path)
    (root / "annotations" / "train.csv").rename(root / train)
    (root / "annotations" / "val.csv").rename(root / val)
    touch(root, "annotations/test.csv", "annotations/tiny_train.csv")
    assert len(Kinetics400.read(root).videos) == 6


def test_kinetics_replacements_and_links(tmp_path: Path) -> None:
    root = kinetics(tmp_path / "k400")
    better = "replacement/replacement_for_corrupted_k400/-3B32lodo2M_000059_000069.mp4"
    touch(root, better)
    (root / "videos" / "abseiling").mkdir(parents=True)  # what CVDF's arrange_by_classes.py makes
    link = root / "videos" / "abseiling" / "0zzzzzzzzzz_000001_000011.mp4"
    link.symlink_to(root / "train" / "abseiling" / link.name)
    (root / "train" / "round").symlink_to(root)  # a link into what is walked anyway
    paths = {video.name: video.path for video in Kinetics400.read(root).videos}
    assert paths["-3B32lodo2M_000059_000069.mp4"] == root / better
    above = {video.name: video.path for video in Kinetics400.read(root.parent).videos}
    assert above["-3B32lodo2M_000059_000069.mp4"] == root / better
    assert paths[link.name] is not None
    touch(root, "smaller/_dbcJuKJQNs.mp4")
    with pytest.raises(DataError, match=r"two files for the video _dbcJuKJQNs: .*mp4.*webm.*keep one"):
        Kinetics400.read(root)


def test_kinetics_in_a_folder_elsewhere(tmp_path: Path) -> None:
    root = kinetics(tmp_path / "here")
    (root / "train").rename(tmp_path / "big disk")
    (root / "train").symlink_to(tmp_path / "big disk")
    assert len(Kinetics400.read(root).missing) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "youtube_id,time_start,time_end,split\nx,1,2,val\n",
            "needs the columns label, youtube_id, time_start, time_end",
        ),
        (
            "label,youtube_id,time_start,time_end,split\na,x,one,2,val\n",
            "line 2: time_start and time_end must be seconds",
        ),
        ("label,youtube_id,time_start,time_end,split\na,x,1\n", "line 2: time_start and time_end must be seconds"),
        ("", "needs the columns"),
    ],
)
def test_kinetics_with_wrong_lists(tmp_path: Path, text: str, message: str) -> None:
    root = kinetics(tmp_path)
    (root / "annotations" / "val.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        Kinetics400.read(root)
    assert "val.csv" in str(caught.value)


def test_two_kinetics_in_one_folder_are_told_apart_by_nobody(tmp_path: Path) -> None:
    kinetics(tmp_path / "k400")
    kinetics(tmp_path / "k600")
    with pytest.raises(DataError, match="two lists of one kind"):
        Kinetics400.read(tmp_path)


def test_seconds_may_be_fractions(tmp_path: Path) -> None:
    root = kinetics(tmp_path)
    path = root / "annotations" / "train.csv"
    path.write_text(path.read_text().replace(",59,69,", ",59.0,69.0,"))
    assert len(Kinetics400.read(root).missing) == 1


def test_mini_kinetics(tmp_path: Path) -> None:
    data = MiniKinetics200.read(mini_kinetics(tmp_path))
    assert data.labels == ("abseiling", "baking cookies")  # those of the ids alone
    assert found(data, "train") == {"-3B32lodo2M_000059_000069.mp4": "abseiling", "_dbcJuKJQNs.webm": "baking cookies"}
    assert found(data, "test") == {"val_abseili_000000_000010.mp4": "abseiling"}
    assert names(data) == ["gone_away00_000007_000017.mp4", "never_known"]
    (tmp_path / "train_ytid_list.txt").write_text("never_known\n")
    (tmp_path / "val_ytid_list.txt").write_text("never_known\n")
    with pytest.raises(DataError, match=r"no id of .*train_ytid_list\.txt' is in the lists of Kinetics"):
        MiniKinetics200.read(tmp_path)
    (tmp_path / "val_ytid_list.txt").unlink()
    with pytest.raises(DataError, match=r"expected the list val_ytid_list.txt"):
        MiniKinetics200.read(tmp_path)


# Something-Something V2


@pytest.mark.parametrize("prefix", ["", "something-something-v2-"])
def test_something_something(tmp_path: Path, prefix: str) -> None:
    data = SomethingSomethingV2.read(ssv2(tmp_path, prefix))
    assert data.labels == (
        "Holding something next to something",
        "Touching (without moving) part of something",
        "Closing something",
    )
    assert found(data, "train") == {
        "78687.webm": "Holding something next to something",
        "2.webm": "Touching (without moving) part of something",
        "3.webm": "Closing something",
    }
    assert found(data, "test") == {"10.webm": "Closing something"}
    assert names(data) == ["11.webm"]


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("train.json", [{"id": "2", "template": "Eating [something]"}], "entry 0: 'Eating something' is no class"),
        ("train.json", [{"id": "2"}], "entry 0: expected an id and a template"),
        ("train.json", {}, "must hold a JSON list"),
        ("labels.json", {"Closing something": "1"}, "from 0 on, without a gap"),
        ("labels.json", {"Closing something": "first"}, "from 0 on, without a gap"),
        (
            "labels.json",
            None,
            "expected labels.json, train.json and validation.json .* got train.json, validation.json",
        ),
        ("validation.json", "no json", "is no JSON"),
    ],
)
def test_something_something_with_wrong_lists(tmp_path: Path, file: str, values: object, message: str) -> None:
    path = ssv2(tmp_path) / "labels" / file
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    if values is None:
        path.unlink()
    with pytest.raises(DataError, match=message):
        SomethingSomethingV2.read(tmp_path)


# All


def test_the_network_keeps_its_classes_whatever_is_there(tmp_path: Path) -> None:
    """Class numbers come from the lists, not from the files: a partial copy trains the same classifier."""
    root = kinetics(tmp_path)
    whole = Kinetics400.read(root)
    for path in root.rglob("val_abseili*"):
        path.unlink()
    partial = Kinetics400.read(root).video_lists()
    assert partial["test"].labels == whole.labels
    assert [record.label for record in partial["test"].records] == [2]


def test_labels_of_a_trained_network(tmp_path: Path) -> None:
    data = UCF101.read(ucf101(tmp_path), 1)
    test = data.video_lists(("YoYo", "ApplyEyeMakeup", "HandstandPushups"))["test"]
    assert [record.label for record in test.records] == [1, 2, 0]
    with pytest.raises(
        DataError, match=r"'HandstandPushups' that is not among the 2 expected; close: HandStandPushups"
    ):
        data.video_lists(("ApplyEyeMakeup", "HandStandPushups"))


def test_a_test_split_alone_is_enough_for_a_trained_network(tmp_path: Path) -> None:
    root = kinetics(tmp_path)
    data = Kinetics400.read(root)
    for path in (root / "train").rglob("*.*"):
        path.unlink()
    (root / "annotations" / "train.csv").unlink()
    test_only = Kinetics400.read(root)
    assert set(test_only.video_lists(data.labels)) == {"test"}
    with pytest.raises(DataError, match=r"none of the 0 videos that Kinetics400 in .* lists for its train split"):
        test_only.video_lists()


def test_no_video_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of the 3 videos .* train split is there, as ApplyEyeMakeup/v_.*\.avi"):
        UCF101.read(ucf101(tmp_path, videos=False), 1).video_lists()


@pytest.mark.parametrize("kind", DATA_SETS.values())
def test_wrong_roots(tmp_path: Path, kind: type[ListedSet]) -> None:
    split = 1 if kind.SPLITS else None
    with pytest.raises(DataError, match="does not exist"):
        kind.read(tmp_path / "no", split)
    with pytest.raises(DataError, match="expected"):
        kind.read(touch(tmp_path, "a.avi"), split)
    with pytest.raises(DataError, match="is a file"):
        kind.read(tmp_path / "a.avi", split)
    if not kind.SPLITS:
        with pytest.raises(DataError, match="has one split only; leave out split 1"):
            kind.read(tmp_path, 1)


@pytest.mark.parametrize("kind", DATA_SETS.values())
def test_docstrings_say_what_one_has_to_know(kind: type[ListedSet]) -> None:
    for word in ("Format", "Classes:", "Splits:", "Citation:", "Licence:"):
        text = (kind.__doc__ or "") + (kind.__mro__[1].__doc__ or "")
        assert word in text, word
    assert str(kind.NUM_CLASSES) in (kind.__doc__ or "").splitlines()[0]


def test_lists_with_windows_line_ends_and_a_mark(tmp_path: Path) -> None:
    root = ucf101(tmp_path)
    for path in (root / "ucfTrainTestlist").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert UCF101.read(root, 1).missing == ()
    (root / "ucfTrainTestlist" / "classInd.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="is no list in UTF-8"):
        UCF101.read(root, 1)


REAL_NAMES = {
    "v_SoccerJuggling_g23_c01.avi": ("SoccerJuggling", "train"),
    "v_SoccerJuggling_g24_c01.avi": ("SoccerJuggling", "test"),
}


def test_real_files_of_ucf101_and_hmdb51(real_data: Path, tmp_path: Path) -> None:
    """Real files under the names they have in the data sets."""
    lists = tmp_path / "ucfTrainTestlist"
    lines(lists / "classInd.txt", "1 SoccerJuggling", "2 YoYo")
    lines(lists / "trainlist01.txt", "SoccerJuggling/v_SoccerJuggling_g23_c01.avi 1", "YoYo/v_YoYo_g08_c01.avi 2")
    lines(lists / "testlist01.txt", "SoccerJuggling/v_SoccerJuggling_g24_c01.avi")
    lines(
        tmp_path / "wave_test_split1.txt",
        "RATRACE_wave_f_nm_np1_fr_goo_37.avi 1",
        "TrumanShow_wave_f_nm_np1_fr_med_26.avi 2",
    )
    (tmp_path / "videos").symlink_to(real_data / "videos")
    ucf, hmdb = UCF101.read(tmp_path, 1), HMDB51.read(tmp_path, 1)
    assert {v.path.name: (v.label, v.split) for v in ucf.videos if v.path} == REAL_NAMES
    assert Counter(video.split for video in hmdb.videos if video.path) == {"train": 1, "test": 1}
