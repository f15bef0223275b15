"""`atfr data check` and `atfr data resize`: look after the videos before a training has to."""

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from atfr.checks import not_negative, processes
from atfr.cli import common
from atfr.cli.plain import FAILED
from atfr.errors import InputError
from atfr.files import csv_text, write_whole
from atfr.video.spec import ClipSpec

if TYPE_CHECKING:
    from atfr.data.check import Problem

DEFAULT_CLIP = ClipSpec()
SHOWN = 20
NAMED = 5
KINDS = ("missing", "broken", "damaged", "leaked", "short")
COLUMNS = ["name", "label", "split", "problem", "reason", "path"]


class Entry(NamedTuple):
    """A video of a data set: its name in the lists, its class, the splits it is in, and its file if there is one."""

    name: str
    label: str
    split: str
    path: Path | None


def check(
    name: Literal[common.DataSetName, "own"],
    root: Path,
    *,
    test_fold: int | None = None,
    out: Path | None = None,
    min_frames: int = DEFAULT_CLIP.span,
    num_workers: int | None = None,
    json: bool = False,
) -> int:
    """Compare the videos of a data set with its lists, decode each of them once, and write what is wrong to a CSV file.

    missing: listed, but not there. broken: nothing decodes. damaged: a part decodes, and is used. leaked: the same
    file, byte for byte, is in training. short: a clip repeats from its start. What is found is kept in
    .atfr-index.jsonl in the folder (or in ~/.cache/atfr where that cannot be written): the next check decodes only what
    has changed, one that was interrupted goes on, and a training reads from it how long the videos are. The exit code
    is 2 where videos are broken; all else is no error.

    Args:
        name: The data set; own is a folder of classes or a CSV file of one's own.
        root: Its folder, or the CSV file.
        test_fold: A fold of the CSV file, where it has a column fold; all are checked.
        out: The CSV file to write; by default here, FOLDER_problems.csv.
        min_frames: Videos of fewer frames are short; by default the frames from the first to the last of a clip of
            16 frames with stride 2.
        num_workers: Processes that decode; by default one a CPU core.
    """
    from atfr.data.check import check_videos, copies
    from atfr.data.index import index_path
    from atfr.data.sets import DATA_SETS

    not_negative("--min_frames", min_frames)
    folder = folder_of(root)
    out = out or Path(f"{(folder if root.is_dir() else root.with_suffix('')).resolve().name or name}_problems.csv")
    if out.is_file() and not is_ours(out):
        raise InputError(f"'{out}' is there and is no list of problems; give another name with --out")
    entries, num_classes = listed(name, root, test_fold)
    paths = [entry.path for entry in entries if entry.path is not None]
    with common.progress("checking") as progress:
        problems = check_videos(
            paths, folder, min_frames=min_frames, num_workers=workers(num_workers), progress=progress
        )
    with common.busy("looking for copies"):
        problems += leaked(entries, copies(paths))
    write_whole(out, problems_csv(entries, problems))
    counts = Counter(problem.problem for problem in problems)
    counts["missing"] = len(entries) - len(paths)
    report: dict[str, Any] = {"name": name, "root": str(root), "listed": len(entries), "found": len(paths)}
    report |= {"classes": num_classes, "classes_in_full": DATA_SETS[name].NUM_CLASSES if name in DATA_SETS else None}
    report |= {kind: counts[kind] for kind in KINDS} | {"out": str(out), "index": str(index_path(folder))}
    code = FAILED if counts["broken"] else 0
    if json:
        common.print_json(report)
        return code
    full = f" of {report['classes_in_full']}" if report["classes_in_full"] else ""
    rows: list[list[object]] = [["listed", len(entries)], ["found", len(paths)], ["classes", f"{num_classes}{full}"]]
    rows += [[kind, counts[kind]] for kind in KINDS]
    note = f"short: fewer than {min_frames} frames. Written: {out} (what is wrong), {report['index']} (what is known)."
    common.print_table(f"{name} in {root}", ["", "videos"], rows, note)
    say_worst(problems, out)
    return code


def leaked(entries: list[Entry], groups: list[list[Path]]) -> "list[Problem]":
    """Return the videos that are tested on, in whatever split, and of which a training of it has a copy."""
    from atfr.data.check import Problem

    splits = {entry.path: [side.rpartition(":")[::2] for side in entry.split.split()] for entry in entries}
    found = []
    for group in groups:
        trained = {number: path for path in group for number, side in splits[path] if side == "train"}
        for path in group:
            other = next(
                (trained[number] for number, side in splits[path] if side != "train" and number in trained), path
            )
            if other != path:
                found.append(Problem(path, "leaked", f"'{path}' is the same file as '{other}', which is trained on"))
    return found


def say_worst(problems: "list[Problem]", out: Path) -> None:
    """Name the first few videos with problems, the worst first, each in one line."""
    worst = sorted(problems, key=lambda problem: KINDS.index(problem.problem))
    for problem in worst[:NAMED]:
        reason = problem.reason.removeprefix(f"'{problem.path}': ").replace(f"'{problem.path}'", "it")
        common.warn(f"{problem.problem}: {problem.path}: {reason}")
    if len(worst) > NAMED:
        common.warn(f"{len(worst) - NAMED} more are in {out}")


def resize(
    source: Path,
    target: Path,
    *,
    side: int = 256,
    num_workers: int | None = None,
    remove_source: bool = False,
    json: bool = False,
) -> int:
    """Write the videos of a folder again with smaller frames, and copy its other files: decoding then keeps up.

    H.264 in MP4, a key frame every 16 frames, no sound. A video that is small enough is copied as it is. Each file is
    written beside its place, decoded once, and only then gets its name; a call that was interrupted goes on.

    Args:
        source: The folder of the data; it is only read, but for --remove_source.
        target: Another folder, new or of an earlier call with the same side.
        side: The shorter side in px; at least what a training decodes (the largest of --clip.jitter).
        num_workers: Processes; by default one a CPU core.
        remove_source: Remove each video from the source once it is safely in the target.
    """
    from atfr.data.resize import resize_videos

    with common.progress("resizing") as progress:
        options: dict[str, Any] = {"side": side, "num_workers": workers(num_workers), "remove_source": remove_source}
        result = resize_videos(source, target, **options, progress=progress)
    if json:
        failed = [{"path": str(path), "reason": reason} for path, reason in result.failed]
        counts = {"written": result.written, "copied": result.copied, "kept": result.kept}
        common.print_json({"target": str(target), "side": side} | counts | {"failed": failed})
    else:
        for _, reason in result.failed[:SHOWN]:
            common.warn(f"left out: {reason}")
        if len(result.failed) > SHOWN:
            common.warn(f"left out: {len(result.failed) - SHOWN} more, which --json names")
        rows = [["written", result.written], ["copied, small enough", result.copied]]
        rows += [["there already", result.kept], ["left out", len(result.failed)]]
        common.print_table(f"{target}, shorter side {side} px", ["", "videos"], rows)
    return FAILED if result.failed else 0


def listed(name: str, root: Path, test_fold: int | None) -> tuple[list[Entry], int]:
    """Return every listed video once, with all the splits it is in, and the number of classes."""
    from atfr.data.records import read_csv
    from atfr.data.sets import DATA_SETS

    entries: dict[str, Entry] = {}

    def add(name: str, label: str, side: str, path: Path | None) -> None:
        before = f"{entries[name].split} " if name in entries else ""
        entries[name] = Entry(name, label, before + side, path)

    if name in DATA_SETS:
        kind = DATA_SETS[name]
        for split in kind.SPLITS or (None,):
            found = kind.read(root, split)
            for video in found.videos:
                add(video.name, video.label, video.split if split is None else f"{split}:{video.split}", video.path)
        return list(entries.values()), len(found.labels)
    of_file = root.is_file()
    lists = (
        read_csv(root, test_fold=test_fold, must_exist=False) if of_file else common.read_data(root, None, test_fold)
    )
    for side, videos in lists.items():
        for record in videos.records:
            path = record.path if record.path.is_file() else None
            add(os.path.relpath(record.path, folder_of(root)), videos.labels[record.label], side, path)
    return list(entries.values()), len(lists["train"].labels)


def is_ours(out: Path) -> bool:
    """Say whether an earlier check has written a file, which may be replaced: its videos are not."""
    heading = csv_text(COLUMNS, []).encode()
    with out.open("rb") as file:
        return file.read(len(heading)) == heading


def problems_csv(entries: list[Entry], problems: "list[Problem]") -> str:
    """Write what is missing and what is wrong as CSV, in the order of the lists."""
    by_path = {problem.path: problem for problem in problems}
    rows: list[list[object]] = []
    for entry in entries:
        if entry.path is None:
            rows.append([entry.name, entry.label, entry.split, "missing", "there is no such file", ""])
        elif problem := by_path.get(entry.path):
            rows.append([entry.name, entry.label, entry.split, problem.problem, problem.reason, entry.path])
    return csv_text(COLUMNS, rows)


def folder_of(root: Path) -> Path:
    """Return the folder of the data: that of the CSV file, where it is one."""
    return root if root.is_dir() else root.parent


def workers(asked: int | None) -> int:
    """Return the number of processes that was asked for, or how many CPU cores this process may use."""
    from atfr.data.pool import cpu_cores

    return processes("--num_workers", asked) if asked else cpu_cores()
