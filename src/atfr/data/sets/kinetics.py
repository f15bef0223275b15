"""Kinetics-400, Kinetics-600 and Mini-Kinetics-200.

The lists name videos of YouTube, of which every year fewer are there: CVDF's copy of Kinetics-400 holds 240,258 of
246,534 training videos, and what one downloads today is less. So missing videos are normal; say with a result how many
were tested.
"""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from atfr.data.sets.listed import ListedSet, ListedVideo, Tree, read_lines
from atfr.errors import DataError

COLUMNS = ("label", "youtube_id", "time_start", "time_end")
CSV_NAMES = r"(?:(?:kinetics|k)[-_]?\d*[-_])?(train|val)(?:idate|idation)?\.csv"


class _Segment(NamedTuple):
    """One line of a list of Kinetics: some seconds of a video of YouTube."""

    label: str
    youtube_id: str
    start_s: int
    end_s: int
    split: str


class Kinetics400(ListedSet):
    """400 actions in 306,245 segments of 10 s from YouTube: 246,534 to train, 19,906 to validate, 39,805 to test.

    Format, as CVDF's scripts leave it, or DeepMind's lists beside videos of one's own, in any folder below the root:

        annotations/train.csv      label,youtube_id,time_start,time_end,split
        annotations/val.csv        the same
        train/-3B32lodo2M_000059_000069.mp4

    Lists may also be called validate.csv, kinetics_train.csv, kinetics-400_train.csv and so on. A video is called
    ID_START_END with six digits each, or ID; it may be in class folders (their names do not count) or flat, in any
    container. A copy in CVDF's folder of replacements takes the place of the damaged one.

    Classes: 400, those of the lists, sorted by name.
    Splits: one, by the authors. Results are reported on the validation split, which is the test split here; the
    authors' test split is passed over (its labels were withheld).
    Citation: Kay et al.: The Kinetics Human Action Video Dataset, 2017, https://arxiv.org/abs/1705.06950.
    Licence: the lists are Google's under CC BY 4.0; the videos are their uploaders'.
    https://github.com/cvdfoundation/kinetics-dataset
    """

    NUM_CLASSES = 400

    @classmethod
    def _read(cls, tree: Tree, split: int | None) -> tuple[list[ListedVideo], list[str]]:
        segments = list(_segments(tree))
        return list(_look_for(tree, segments)), sorted({segment.label for segment in segments})


class Kinetics600(Kinetics400):
    """600 actions, at least 600 videos each; about 392,000 to train and 30,000 to validate.

    Format and splits are those of `Kinetics400`. CVDF's train.csv and val.csv of Kinetics-600 are incomplete by its own
    word, its train.txt and val.txt are not read: take the lists of DeepMind's kinetics600.tar.gz.

    Classes: 600, those of the lists, sorted by name.
    Citation: Carreira et al.: A Short Note about Kinetics-600, 2018, https://arxiv.org/abs/1808.01340.
    Licence: as that of Kinetics-400.
    """

    NUM_CLASSES = 600


class MiniKinetics200(ListedSet):
    """200 actions of Kinetics-400: 400 training and 25 validation videos each, 80,000 and 5,000 in all.

    Format: that of `Kinetics400`, and beside its lists those of https://github.com/s9xie/Mini-Kinetics-200, which hold
    an id of YouTube a line:

        train_ytid_list.txt
        val_ytid_list.txt

    Classes: 200, those of the ids, sorted by name.
    Splits: one, by the authors; the validation split is the test split here. An id that Kinetics' lists do not know
    counts as missing.
    Citation: Xie, Sun, Huang, Tu, Murphy: Rethinking Spatiotemporal Feature Learning For Video Understanding, ECCV
    2018, https://arxiv.org/abs/1712.04851.
    Licence: none stated for the lists of ids; otherwise as that of Kinetics-400.
    """

    NUM_CLASSES = 200

    @classmethod
    def _read(cls, tree: Tree, split: int | None) -> tuple[list[ListedVideo], list[str]]:
        known = {(segment.split, segment.youtube_id): segment for segment in _segments(tree)}
        chosen, unknown = [], []
        for side, name in (("train", "train_ytid_list.txt"), ("test", "val_ytid_list.txt")):
            for _, (youtube_id, *_) in read_lines(tree.named(name)):
                if segment := known.get((side, youtube_id)):
                    chosen.append(segment)
                else:
                    unknown.append(ListedVideo(youtube_id, "", side, None))
        if not chosen:
            raise DataError(
                f"no id of '{tree.named('train_ytid_list.txt')}' is in the lists of Kinetics in '{tree.root}'"
            )
        return [*_look_for(tree, chosen), *unknown], sorted({segment.label for segment in chosen})


def _segments(tree: Tree) -> Iterator[_Segment]:
    """Read the lists, training first."""
    lists = tree.lists(CSV_NAMES)
    if not lists:
        raise DataError(f"expected the lists train.csv and val.csv in '{tree.root}' or below (see docs/data.md)")
    for name, split in (("train", "train"), ("val", "test")):
        if name in lists:
            yield from _read_csv(lists[name], split)


def _read_csv(path: Path, split: str) -> Iterator[_Segment]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise DataError(
                    f"'{path}' needs the columns {', '.join(COLUMNS)}, got {', '.join(reader.fieldnames or ())}"
                )
            for row in reader:
                try:
                    start_s, end_s = (int(float(row[name])) for name in ("time_start", "time_end"))
                except (TypeError, ValueError, OverflowError):
                    raise DataError(
                        f"'{path}' line {reader.line_num}: time_start and time_end must be seconds"
                    ) from None
                yield _Segment(row["label"].strip(), row["youtube_id"].strip(), start_s, end_s, split)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path}' is no CSV file in UTF-8 ({error})") from error


def _look_for(tree: Tree, segments: Iterable[_Segment]) -> Iterator[ListedVideo]:
    for segment in segments:
        name = f"{segment.youtube_id}_{segment.start_s:06d}_{segment.end_s:06d}"
        path = tree.video(name, segment.label) or tree.video(segment.youtube_id, segment.label)
        yield ListedVideo(f"{name}.mp4", segment.label, segment.split, path)
