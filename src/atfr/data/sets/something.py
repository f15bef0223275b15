"""Something-Something V2."""

from pathlib import Path
from typing import Any

from atfr.data.sets.listed import ListedSet, ListedVideo, Tree
from atfr.errors import DataError
from atfr.files import LARGE, read_json


class SomethingSomethingV2(ListedSet):
    """174 actions with everyday objects in 220,847 videos, 240 px high, 12 frames/s.

    Format, as the archives of videos and labels unpack, in any folder below the root:

        20bn-something-something-v2/78687.webm
        labels/labels.json         {"Approaching something with your camera": "0", ...}
        labels/train.json          [{"id": "78687", "template": "Holding [something] next to [something]", ...}, ...]
        labels/validation.json     the same

    The older names something-something-v2-train.json and so on are read too. A template without its brackets is a
    class. Left and right are classes here: train with `--clip.flip false`.

    Classes: 174, numbered by labels.json.
    Splits: one, by the authors: 168,913 training and 24,777 validation videos, on which results are reported and which
    are the test split here. Its own test split (27,157 videos) is passed over.
    Citation: Goyal et al.: The "something something" video database for learning and evaluating visual common sense,
    ICCV 2017, https://arxiv.org/abs/1706.04261.
    Licence: for research only, by Qualcomm's agreement; it comes with the download.
    """

    NUM_CLASSES = 174

    @classmethod
    def _read(cls, tree: Tree, split: int | None) -> tuple[list[ListedVideo], list[str]]:
        lists = tree.lists(r"(?:something-something-v2-)?(labels|train|validation)\.json")
        if "labels" not in lists or len(lists) < 2:
            raise DataError(
                f"expected labels.json, train.json and validation.json in '{tree.root}' or below, got "
                f"{', '.join(path.name for path in lists.values()) or 'none of them'} (see docs/data.md)"
            )
        labels = _labels(lists["labels"])
        videos = []
        for name, side in (("train", "train"), ("validation", "test")):
            if name not in lists:
                continue
            for place, entry in enumerate(_json(lists[name], list)):
                if not isinstance(entry, dict) or not isinstance(entry.get("template"), str) or "id" not in entry:
                    raise DataError(
                        f"'{lists[name]}' entry {place}: expected an id and a template, got {str(entry)[:100]}"
                    )
                label = entry["template"].replace("[", "").replace("]", "")
                if label not in labels:
                    raise DataError(f"'{lists[name]}' entry {place}: {label!r} is no class of {lists['labels'].name}")
                videos.append(ListedVideo(f"{entry['id']}.webm", label, side, tree.video(str(entry["id"]))))
        return videos, labels


def _labels(path: Path) -> list[str]:
    numbers = _json(path, dict)
    try:
        ordered = sorted(numbers, key=lambda name: int(numbers[name]))
        whole = [int(numbers[name]) for name in ordered] == list(range(len(ordered)))
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole:
        raise DataError(f"'{path}' must give each class its number, from 0 on, without a gap")
    return ordered


def _json(path: Path, kind: type) -> Any:
    try:
        values = read_json(path, LARGE)
    except ValueError as error:  # also UnicodeDecodeError
        raise DataError(f"'{path}' is no JSON: {error}") from error
    if not isinstance(values, kind) or not values:
        raise DataError(f"'{path}' must hold a JSON {'list' if kind is list else 'object'} that is not empty")
    return values
