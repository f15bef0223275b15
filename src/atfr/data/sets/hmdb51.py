"""HMDB51."""

import os

from atfr.data.sets.listed import ListedSet, ListedVideo, Tree, read_lines
from atfr.errors import DataError

SIDES = {"1": "train", "2": "test", "0": None}


class HMDB51(ListedSet):
    """51 actions in 6,766 videos from films and the web, 240 px high, 30 frames/s.

    Format, as `hmdb51_org.rar` (inside it one .rar a class) and `test_train_splits.rar` unpack, in any folder below the
    root:

        hmdb51_org/brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi
        testTrainMulti_7030_splits/brush_hair_test_split1.txt

    A line of a list is "April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1": 1 trains, 2 tests, 0 is in neither. Videos may
    be in class folders or flat, in any container.

    Classes: 51, those that have a list, sorted by name.
    Splits: three, made by the authors: 70 training and 30 test videos a class each. Results are means over the three.
    Citation: Kuehne, Jhuang, Garrote, Poggio, Serre: HMDB: a large video database for human motion recognition,
    ICCV 2011.
    Licence: CC BY 4.0 according to its page; the films are their owners'.
    https://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/
    """

    NUM_CLASSES = 51
    SPLITS = (1, 2, 3)

    @classmethod
    def _read(cls, tree: Tree, split: int | None) -> tuple[list[ListedVideo], list[str]]:
        lists = tree.lists(rf"(.+)_test_split{split}\.txt")
        if not lists:
            raise DataError(
                f"expected lists such as brush_hair_test_split{split}.txt in '{tree.root}' or below, but there is none "
                "(see docs/data.md)"
            )
        videos = []
        for label, path in sorted(lists.items()):
            for line, words in read_lines(path):
                if len(words) != 2 or words[1] not in SIDES:
                    raise DataError(f"'{path}' line {line}: expected 'video.avi 0', 1 or 2, got {' '.join(words)!r}")
                name, side = words[0], SIDES[words[1]]
                if side is not None:
                    found = tree.video(os.path.splitext(name)[0], label)
                    videos.append(ListedVideo(f"{label}/{name}", label, side, found))
        return videos, sorted(lists)
