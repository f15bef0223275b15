"""Read which videos there are, and their classes, from a folder of classes or from a CSV file.

Both give {"train": VideoList, "test": VideoList}, with the same class names in the same order. A `val` split beside a
`test` split comes as a third list; alone it is the test list.
"""

import csv
import difflib
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from atfr.data.walk import VIDEO_ENDINGS, say_passed_over, videos_of
from atfr.errors import DataError

SPLITS = ("train", "val", "test")
NUMBER = re.compile(r"-?\d{1,9}")
"""A label that is a number; longer ones are names."""


@dataclass(frozen=True)
class VideoRecord:
    """One video file and the number of its class."""

    path: Path
    label: int


@dataclass(frozen=True)
class VideoList:
    """Videos with their classes; `labels[i]` names class i."""

    records: tuple[VideoRecord, ...]
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.records:
            raise DataError("a video list must hold at least one video, got none")
        for record in self.records:
            if not 0 <= record.label < len(self.labels):
                raise DataError(
                    f"the label of '{record.path}' is out of range: {record.label}, with {len(self.labels)} classes "
                    f"(0 to {len(self.labels) - 1})"
                )

    @property
    def fingerprint(self) -> str:
        """How many videos there are, and what tells them from others: names and classes."""
        files = "".join(f"{record.path.name}\0{record.label}\n" for record in self.records)
        digest = hashlib.sha256(files.encode(errors="surrogateescape")).hexdigest()[:8]
        return f"{len(self)}, digest {digest}"

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class _Row:
    """One video before the splits are made; `place` says where it was found, for messages."""

    path: Path
    name: str
    split: str | None
    place: str


def read_folder(
    root: str | os.PathLike[str], *, labels: Sequence[str] | None = None, test_share: float = 0.2, seed: int = 0
) -> dict[str, VideoList]:
    """Read `root/<class>/<video>`, or `root/train/<class>/<video>` with `root/test` or `root/val` beside it.

    Without split folders, `test_share` of each class's videos, at least one, is held out for testing: those that come
    first when a hash of `seed` and their names ranks them. Other files and hidden ones are passed over; classes are
    numbered in the order of their names.

    Args:
        labels: The class names in the order wanted (those of a trained network); by default those found, sorted.
        test_share: Share of each class to hold out, between 0 and 1.
        seed: Chooses the videos that are held out.

    Raises:
        DataError: The folder is missing, empty or inconsistent.
    """
    root = Path(root)
    if not root.is_dir():
        found = "is a file" if root.exists() else "does not exist"
        raise DataError(f"expected a folder of classes, but '{root}' {found}")
    splits = [name for name in SPLITS if (root / name).is_dir()]
    others: list[Path] = []
    if "train" in splits and len(splits) > 1 and _subfolders(root / "train"):
        rows = [row for split in splits for row in _class_rows(root / split, split, others)]
    else:
        rows = _hold_out(_class_rows(root, None, others), test_share, seed)
    say_passed_over(root, others)
    return _video_lists(rows, labels, str(root))


def read_csv(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    test_fold: int | None = None,
    labels: Sequence[str] | None = None,
    test_share: float = 0.2,
    seed: int = 0,
    must_exist: bool = True,
) -> dict[str, VideoList]:
    """Read a CSV file with a header and the columns `path` and `label`, and if there is one `split` or `fold`.

    A label is a class name, or a whole number from 0 with the class name in the column `name`, if there is one. `split`
    is train, val or test. With `fold` (whole numbers), `test_fold` names the fold to test on; all others train. With
    neither column, `test_share` of each class is held out as in `read_folder`. Other columns are passed over.

    Args:
        path: The CSV file, UTF-8.
        root: The folder that paths are relative to; by default the CSV file's.
        test_fold: The fold to test on; it takes precedence over `split`.
        labels: The class names in the order wanted (those of a trained network).
        test_share: Share of each class to hold out, where the file has no split.
        seed: Chooses the videos that are held out.
        must_exist: Whether a video that is not there is an error; else it is listed like the others.

    Raises:
        DataError: A column, a value or a video file is missing or wrong.
    """
    path = Path(path)
    columns, table = _read_table(path)
    names = _class_names(table, path, labels)
    folder = Path(root) if root is not None else path.parent
    rows = [
        _Row(folder / values["path"], composed(name), None, f"line {line}")
        for (line, values), name in zip(table, names, strict=True)
    ]
    _check_files(rows, path, folder, must_exist)
    if test_fold is not None or ("fold" in columns and "split" not in columns):
        rows = _split_by_fold(rows, table, columns, test_fold, path)
    elif "split" in columns:
        rows = _split_by_column(rows, table, path)
    else:
        rows = _hold_out(rows, test_share, seed)
    order = labels
    if labels is None and all(NUMBER.fullmatch(values["label"]) for _, values in table):
        number = {name: int(values["label"]) for (_, values), name in zip(table, names, strict=True)}
        order = sorted(number, key=number.__getitem__)
    return _video_lists(rows, order, str(path))


# Folders ------------------------------------------------------------------------------------------------------------


def _subfolders(folder: Path) -> list[Path]:
    return sorted(child for child in folder.iterdir() if child.is_dir() and not child.name.startswith("."))


def _class_rows(root: Path, split: str | None, others: list[Path]) -> list[_Row]:
    classes = _subfolders(root)
    if not classes:
        raise DataError(f"expected a folder for each class in '{root}', found none; put videos into '{root}/<class>/'")
    rows = []
    for folder in classes:
        shown = [child for child in sorted(folder.iterdir()) if not child.name.startswith(".") and not child.is_dir()]
        videos, passed_over = videos_of(shown)
        others += passed_over
        if not videos:
            hint = "; a 'train' folder needs a 'test' or 'val' folder beside it" if folder.name == "train" else ""
            raise DataError(
                f"class folder '{folder}' holds no video (a file that ends in {', '.join(sorted(VIDEO_ENDINGS))}){hint}"
            )
        rows += [_Row(video, composed(folder.name), split, str(video)) for video in videos]
    return rows


# CSV ----------------------------------------------------------------------------------------------------------------


def _read_table(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Return the column names, and for each row its line number and its stripped values."""
    if not path.is_file():
        raise DataError(f"expected a CSV file, but '{path}' {'is a folder' if path.is_dir() else 'does not exist'}")
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            columns = [(name or "").strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            table = []
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"'{path}' line {reader.line_num}: expected {len(columns)} values, {columns}")
                table.append((reader.line_num, {name: value.strip() for name, value in row.items()}))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is no CSV file in UTF-8 ({error})") from error
    for name in ("path", "label"):
        if name not in columns:
            raise DataError(
                f"'{path}' needs a header with the columns path and label, got {columns or 'an empty file'}"
            )
    if not table:
        raise DataError(f"'{path}' lists no video, only a header")
    for line, values in table:
        if not values["path"] or not values["label"]:
            raise DataError(f"'{path}' line {line}: path and label must not be empty")
    return columns, table


def _class_names(table: list[tuple[int, dict[str, str]]], path: Path, labels: Sequence[str] | None) -> list[str]:
    """Return the class name of each row: a number's is in the column `name`, or else in `labels`."""
    if not all(NUMBER.fullmatch(values["label"]) for _, values in table):
        return [values["label"] for _, values in table]
    name_of: dict[int, str] = {}
    names = []
    for line, values in table:
        label = int(values["label"])
        if label < 0 or (labels is not None and "name" not in values and label >= len(labels)):
            top = f"to {len(labels) - 1}" if labels is not None else "upwards"
            hint = "; lists of test videos whose classes are kept secret have -1: `atfr predict` takes such videos"
            raise DataError(
                f"'{path}' line {line}: label {label} is out of range, expected 0 {top}{hint if label == -1 else ''}"
            )
        name = values.get("name") or (labels[label] if labels is not None else str(label))
        if name_of.setdefault(label, name) != name:
            raise DataError(f"'{path}' line {line}: label {label} is named {name!r} here and {name_of[label]!r} before")
        names.append(name)
    if len(set(name_of.values())) < len(name_of):
        twice = Counter(name_of.values()).most_common(1)[0][0]
        raise DataError(f"'{path}': two labels have the same name {twice!r}")
    missing = sorted(set(range(len(name_of))) - set(name_of)) if labels is None else []
    if missing:
        raise DataError(
            f"'{path}': labels must be 0 to {len(name_of) - 1} for {len(name_of)} classes, but no video has label "
            f"{missing[0]} and one has {max(name_of)}"
        )
    return names


def _check_files(rows: list[_Row], path: Path, folder: Path, must_exist: bool) -> None:
    missing = [row for row in rows if not row.path.is_file()]
    if missing and must_exist:
        first = missing[0]
        raise DataError(
            f"'{path}': {len(missing)} of {len(rows)} videos do not exist, first '{first.path}' ({first.place}); "
            f"paths are relative to '{folder}'"
        )
    first_place: dict[Path, str] = {}
    for row in rows:
        if row.path in first_place:
            raise DataError(f"'{path}': '{row.path}' is listed twice, {first_place[row.path]} and {row.place}")
        first_place[row.path] = row.place


def _split_by_fold(
    rows: list[_Row], table: list[tuple[int, dict[str, str]]], columns: list[str], test_fold: int | None, path: Path
) -> list[_Row]:
    if "fold" not in columns:
        raise DataError(f"'{path}' has no column 'fold' to take test_fold={test_fold} from, only {columns}")
    folds = []
    for line, values in table:
        try:
            folds.append(int(values["fold"]))
        except ValueError:
            raise DataError(f"'{path}' line {line}: fold must be a whole number, got {values['fold']!r}") from None
    known = sorted(set(folds))
    if test_fold is None:
        raise DataError(
            f"'{path}' has a column 'fold' ({known}): say which one to test on, test_fold={known[0]} for one "
            f"(--test_fold {known[0]} on the command line)"
        )
    if test_fold not in known:
        raise DataError(f"'{path}' has no fold {test_fold}, only {known}")
    return [replace(row, split="test" if fold == test_fold else "train") for row, fold in zip(rows, folds, strict=True)]


def _split_by_column(rows: list[_Row], table: list[tuple[int, dict[str, str]]], path: Path) -> list[_Row]:
    for line, values in table:
        if values["split"] not in SPLITS:
            raise DataError(f"'{path}' line {line}: split must be train, val or test, got {values['split']!r}")
    return [replace(row, split=values["split"]) for row, (_, values) in zip(rows, table, strict=True)]


# Splits -------------------------------------------------------------------------------------------------------------


def _hold_out(rows: list[_Row], test_share: float, seed: int) -> list[_Row]:
    """Put the videos with the least hash of (seed, class, file name) into the test split, class by class."""
    if not 0 < test_share < 1:
        raise DataError(f"test_share must be between 0 and 1, got {test_share}")
    by_class: dict[str, list[_Row]] = {}
    for row in rows:
        by_class.setdefault(row.name, []).append(row)
    split_rows = []
    for name, members in by_class.items():
        if len(members) < 2:
            raise DataError(
                f"class {name!r} has one video ('{members[0].path}'); one to train and one to test are needed"
            )
        tests = min(max(1, round(test_share * len(members))), len(members) - 1)
        ranked = sorted(members, key=lambda row: rank_of(f"{seed}/{row.name}/{row.path.name}"))
        split_rows += [replace(row, split="test" if place < tests else "train") for place, row in enumerate(ranked)]
    return sorted(split_rows, key=lambda row: row.path)


def rank_of(text: str) -> bytes:
    """Return what puts names in an order that has nothing to do with them, the same everywhere."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).digest()


def composed(name: str) -> str:
    """Return a name in Unicode's composed form (NFC): some systems write é as e and an accent, which looks the same."""
    return unicodedata.normalize("NFC", name)


def _video_lists(rows: Iterable[_Row], labels: Sequence[str] | None, source: str) -> dict[str, VideoList]:
    rows = list(rows)
    found = {row.name for row in rows}
    names = tuple(labels) if labels is not None else tuple(sorted(found))
    if len(names) < 2:
        raise DataError(f"'{source}' has one class only ({names[0] if names else 'none'}); at least two are needed")
    number: Mapping[str, int] = {composed(name): i for i, name in enumerate(names)}
    for name in sorted(found - set(number)):
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise DataError(f"'{source}' has a class {name!r} that is not among the {len(names)} expected ones{hint}")
    by_split: dict[str, list[VideoRecord]] = {}
    for row in rows:
        by_split.setdefault(row.split or "train", []).append(VideoRecord(row.path, number[row.name]))
    if "test" not in by_split and "val" in by_split:
        by_split["test"] = by_split.pop("val")
    for split in ("train", "test") if labels is None else ("test",):  # a trained network's labels: only to be tested
        if split not in by_split:
            raise DataError(f"'{source}' has no video for split {split!r}")
    trained = {record.label for record in by_split.get("train", ())}
    for name in sorted(found):
        if labels is None and number[name] not in trained:
            raise DataError(f"class {name!r} in '{source}' has no training video")
    return {split: VideoList(tuple(by_split[split]), names) for split in SPLITS if split in by_split}
