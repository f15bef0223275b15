"""What the data sets share: a walk that finds their files, and lists of which not every video has to be there."""

import difflib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from atfr.data.records import VideoList, VideoRecord
from atfr.data.walk import VIDEO_ENDINGS, walk
from atfr.errors import DataError

REPLACEMENTS = "replacement"
"""CVDF gives whole copies of damaged Kinetics videos in folders whose names begin so: they take precedence."""


@dataclass(frozen=True)
class ListedVideo:
    """One line of a data set's lists; `split` is train or test.

    `path` is None where there is no such file, and `label` is empty where the lists do not tell the class.
    """

    name: str
    label: str
    split: str
    path: Path | None


@dataclass(frozen=True)
class ListedSet(ABC):
    """A data set whose lists are read and whose videos are looked for; those not found are `missing`.

    Attributes:
        NUM_CLASSES: classes of the whole data set.
        SPLITS: the numbers of its splits, where it has several.
        root: its folder.
        videos: every line of its lists, in their order.
        labels: the classes; `labels[i]` names class i, whichever videos are there.
    """

    NUM_CLASSES: ClassVar[int]
    SPLITS: ClassVar[tuple[int, ...]] = ()

    root: Path
    videos: tuple[ListedVideo, ...]
    labels: tuple[str, ...]

    @classmethod
    def read(cls, root: str | os.PathLike[str], split: int | None = None) -> Self:
        """Read the lists and find the videos.

        Args:
            root: a folder that holds videos and lists, somewhere below.
            split: the number of the split, where there are several.

        Raises:
            DataError: there is no such split, or a list is missing or wrong.
        """
        if split not in (cls.SPLITS or (None,)):
            if not cls.SPLITS:
                raise DataError(f"{cls.__name__} has one split only; leave out split {split}")
            given = "none was given" if split is None else f"got {split}"
            raise DataError(f"{cls.__name__} has the splits {', '.join(map(str, cls.SPLITS))}; name one, {given}")
        tree = Tree(root)
        videos, labels = cls._read(tree, split)
        return cls(tree.root, tuple(videos), tuple(labels))

    @classmethod
    @abstractmethod
    def _read(cls, tree: "Tree", split: int | None) -> tuple[Iterable[ListedVideo], Iterable[str]]:
        """Return every listed video and the classes in their order."""

    @property
    def missing(self) -> tuple[ListedVideo, ...]:
        """The listed videos that are not there."""
        return tuple(video for video in self.videos if video.path is None)

    def video_lists(self, labels: Sequence[str] | None = None) -> dict[str, VideoList]:
        """Return {"train": ..., "test": ...} of the videos that are there, as `read_folder` does.

        Args:
            labels: the class names in the order wanted: those of a trained network, for which a test split is enough.

        Raises:
            DataError: a split that is needed has no video, or a class is not among `labels`.
        """
        names = self.labels if labels is None else tuple(labels)
        number = {name: i for i, name in enumerate(names)}
        found: dict[str, list[VideoRecord]] = {"train": [], "test": []}
        for video in self.videos:
            if video.path is None:
                continue
            if video.label not in number:
                close = difflib.get_close_matches(video.label, names, n=3)
                hint = f"; close: {', '.join(close)}" if close else ""
                raise DataError(f"{self} has a class {video.label!r} that is not among the {len(names)} expected{hint}")
            found[video.split].append(VideoRecord(video.path, number[video.label]))
        for split in ("train", "test") if labels is None else ("test",):
            if not found[split]:
                listed = [video.name for video in self.videos if video.split == split]
                example = f", as {listed[0]}" if listed else ""
                raise DataError(
                    f"none of the {len(listed)} videos that {self} lists for its {split} split is there{example}"
                )
        return {split: VideoList(tuple(records), names) for split, records in found.items() if records}

    def __str__(self) -> str:
        return f"{type(self).__name__} in '{self.root}'"


class Tree:
    """The files below a folder, found in one walk that reads names only: no file is opened, none is asked for its size.

    Links to folders are followed, hidden names are passed over.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            found = "is a file" if self.root.exists() else "does not exist"
            raise DataError(f"expected the folder of a data set, but '{self.root}' {found}")
        self.videos: dict[str, list[Path]] = {}
        self.files: list[Path] = []
        for path in walk(self.root):
            if path.suffix.lower() in VIDEO_ENDINGS:
                self.videos.setdefault(path.stem, []).append(path)
            else:
                self.files.append(path)

    def lists(self, pattern: str) -> dict[str, Path]:
        """Return the files whose whole name matches, by what the pattern's group caught.

        Raises:
            DataError: two files are caught as the same.
        """
        found: dict[str, Path] = {}
        for path in self.files:
            match = re.fullmatch(pattern, path.name)
            if match and found.setdefault(match[1], path) != path:
                raise DataError(
                    f"two lists of one kind: '{found[match[1]]}' and '{path}'; keep one below '{self.root}'"
                )
        return found

    def named(self, name: str) -> Path:
        """Return the file with a name.

        Raises:
            DataError: there is none, or there are several.
        """
        found = self.lists(f"({re.escape(name)})")
        if not found:
            raise DataError(f"expected the list {name} in '{self.root}' or below, but there is none (see docs/data.md)")
        return next(iter(found.values()))

    def video(self, stem: str, folder: str = "") -> Path | None:
        """Return the video whose name without its ending is `stem`; of several, the one in a folder called `folder`.

        Raises:
            DataError: several files would do.
        """
        found = self.videos.get(stem, [])
        if len(found) > 1:
            better = [path for path in found if self._is_replacement(path)]
            found = better or [path for path in found if path.parent.name == folder] or found
            found = list({os.path.realpath(path): path for path in found}.values())
        if len(found) > 1:
            raise DataError(
                f"two files for the video {stem}: '{found[0]}' and '{found[1]}'; keep one below '{self.root}'"
            )
        return found[0] if found else None

    def _is_replacement(self, path: Path) -> bool:
        return any(folder.startswith(REPLACEMENTS) for folder in path.relative_to(self.root).parts[:-1])


def read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the number and the words of each line of a list that is not empty.

    Raises:
        DataError: it is no text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no list in UTF-8 ({error})") from error
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1)]
    found = [(number, words) for number, words in lines if words]
    if not found:
        raise DataError(f"the list '{path}' is empty")
    return found
