"""Tiny copies of the data sets of the field, in the layout in which they unpack: lists, and empty files for videos."""

import csv
import json
from pathlib import Path

KINETICS_COLUMNS = ["label", "youtube_id", "time_start", "time_end", "split"]


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def lines(path: Path, *texts: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def ucf101(root: Path, *, videos: bool = True) -> Path:
    """Three classes; split 2 trains on what split 1 tests, and the other way round."""
    classes = {"ApplyEyeMakeup": "ApplyEyeMakeup", "HandstandPushups": "HandStandPushups", "YoYo": "YoYo"}
    first = [f"{folder}/v_{name}_g08_c01.avi" for folder, name in classes.items()]
    second = [f"{folder}/v_{name}_g01_c01.avi" for folder, name in classes.items()]
    lists = root / "ucfTrainTestlist"
    lines(lists / "classInd.txt", *(f"{i} {name}" for i, name in enumerate(classes, 1)))
    for split, (train, test) in enumerate(((first, second), (second, first), (first, second)), 1):
        lines(lists / f"trainlist{split:02d}.txt", *(f"{name} {i}" for i, name in enumerate(train, 1)))
        lines(lists / f"testlist{split:02d}.txt", *test)
    if videos:
        touch(root / "UCF-101", *first, *second)
    return root


def hmdb51(root: Path) -> Path:
    brush = [f"April_09_brush_hair_u_nm_np1_ba_goo_{i}.avi" for i in range(3)]
    wheel = [
        "(Rad)Schlag_die_Bank!_cartwheel_f_cm_np1_le_med_0.avi",
        "Acrobacias_de_un_fenomeno_cartwheel_f_cm_np1_ba_bad_8.avi",
        "#437_Rad_cartwheel_f_cm_np1_ri_med_2.avi",
    ]
    for split in (1, 2, 3):
        marks = ("1", "2", "0")
        lists = root / "testTrainMulti_7030_splits"
        lines(lists / f"brush_hair_test_split{split}.txt", *(f"{n} {m} " for n, m in zip(brush, marks, strict=True)))
        lines(lists / f"cartwheel_test_split{split}.txt", f"{wheel[0]} 1 ", f"{wheel[1]} 0 ", f"{wheel[2]} 2 ")
    touch(root / "hmdb51_org" / "brush_hair", *brush)
    touch(root / "hmdb51_org" / "cartwheel", *wheel)
    return root


def kinetics_csv(path: Path, *rows: tuple[str, str, int, int, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([KINETICS_COLUMNS, *rows])


def kinetics(root: Path) -> Path:
    kinetics_csv(
        root / "annotations" / "train.csv",
        ("baking cookies", "_dbcJuKJQNs", 40, 50, "train"),
        ("abseiling", "-3B32lodo2M", 59, 69, "train"),
        ("abseiling", "0zzzzzzzzzz", 1, 11, "train"),
        ("zumba", "gone_away00", 7, 17, "train"),
    )
    kinetics_csv(
        root / "annotations" / "val.csv",
        ("abseiling", "val_abseili", 0, 10, "validate"),
        ("zumba", "val_zumba_0", 123, 133, "validate"),
    )
    touch(root / "train", "-3B32lodo2M_000059_000069.mp4", "_dbcJuKJQNs.webm", "_dbcJuKJQNs.jpg")
    touch(root / "train", "abseiling/0zzzzzzzzzz_000001_000011.mp4")
    touch(
        root / "val", "val_abseili_000000_000010.mp4", "val_zumba_0_000123_000133.mp4", "not_listed0_000000_000010.mp4"
    )
    return root


def mini_kinetics(root: Path) -> Path:
    kinetics(root)
    (root / "annotations" / "train.csv").write_text(
        (root / "annotations" / "train.csv").read_text().replace("zumba,gone", "abseiling,gone")
    )
    lines(root / "train_ytid_list.txt", "_dbcJuKJQNs", "-3B32lodo2M", "gone_away00")
    lines(root / "val_ytid_list.txt", "val_abseili", "never_known")
    return root


def ssv2(root: Path, prefix: str = "") -> Path:
    labels = {
        "Closing something": "2",
        "Holding something next to something": "0",
        "Touching (without moving) part of something": "1",
    }
    train = [
        {"id": "78687", "label": "holding potato next to cup", "template": "Holding [something] next to [something]"},
        {"id": "2", "label": "touching part of a pen", "template": "Touching (without moving) [part] of [something]"},
        {"id": "3", "label": "closing a box", "template": "Closing [something]"},
    ]
    validation = [
        {"id": "10", "label": "closing a door", "template": "Closing [something]"},
        {"id": "11", "label": "closing a lid", "template": "Closing [something]"},
    ]
    for name, values in (("labels", labels), ("train", train), ("validation", validation), ("test", [{"id": "12"}])):
        lines(root / "labels" / f"{prefix}{name}.json", json.dumps(values))
    touch(root / "20bn-something-something-v2", "78687.webm", "2.webm", "3.webm", "10.webm", "12.webm")
    return root
