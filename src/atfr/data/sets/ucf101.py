"""UCF101."""

import os

from atfr.data.sets.listed import ListedSet, ListedVideo, Tree, read_lines
from atfr.errors import DataError


class UCF101(ListedSet):
    """101 actions in 13,320 videos from YouTube, 320 x 240 px, 25 or 29.97 frames/s.

    Format, as `UCF101.rar` and `UCF101TrainTestSplits-RecognitionTask.zip` unpack, in any folder below the root:

        UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi
        ucfTrainTestlist/classInd.txt         "1 ApplyEyeMakeup" and so on, numbered from 1
        ucfTrainTestlist/trainlist01.txt      "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1" and so on
        ucfTrainTestlist/testlist01.txt       the same without the number

    Videos may be in class folders or flat, in any container. Files and lists disagree in some copies about capitals
    (HandStandPushups, HandstandPushups): they do not count.

    Classes: 101, in the order of classInd.txt (class 0 here is its number 1).
    Splits: three, made by the authors by groups of videos (no group is on both sides); split 1 has 9,537 training and
    3,783 test videos. Results are means over the three.
    Citation: Soomro, Zamir, Shah: UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild,
    CRCV-TR-12-01, 2012, https://arxiv.org/abs/1212.0402.
    Licence: none stated; the videos are their uploaders'. https://www.crcv.ucf.edu/data/UCF101.php
    """

    NUM_CLASSES = 101
    SPLITS = (1, 2, 3)

    @classmethod
    def _read(cls, tree: Tree, split: int | None) -> tuple[list[ListedVideo], list[str]]:
        tree.videos = {stem.lower(): paths for stem, paths in tree.videos.items()}
        classes = tree.named("classInd.txt")
        names: list[str] = []
        for line, words in read_lines(classes):
            if len(words) != 2 or words[0] != str(len(names) + 1):
                raise DataError(
                    f"'{classes}' line {line}: expected '{len(names) + 1} ClassName', got {' '.join(words)!r}"
                )
            names.append(words[1])
        known = {name.lower(): name for name in names}
        videos = []
        for side in ("train", "test"):
            path = tree.named(f"{side}list{split:02d}.txt")
            for line, (name, *_) in read_lines(path):
                folder, _, file = name.rpartition("/")
                if folder.lower() not in known:
                    raise DataError(f"'{path}' line {line}: {folder!r} is no class of {classes.name}")
                found = tree.video(os.path.splitext(file)[0].lower(), folder)
                videos.append(ListedVideo(name, known[folder.lower()], side, found))
        return videos, names
