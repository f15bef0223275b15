"""What commands share: reading data and checkpoints, tables and JSON on stdout, progress and warnings on stderr."""

import inspect
import json
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich import progress as bars
from rich.console import Console
from rich.table import Table
from rich.text import Text

from atfr.checks import device_of, in_range
from atfr.cli.plain import plain
from atfr.cli.plain import say as note
from atfr.errors import InputError
from atfr.files import finite
from atfr.video.spec import ViewSpec

if TYPE_CHECKING:
    from atfr.data.records import VideoList
    from atfr.evaluate.task import Task
    from atfr.models import VideoModel

WIDTH = 80
SPEED_OVER_S = 600
"""The rate is that of the last ten minutes: a single long video may take one."""
LOG_EVERY_S = 30
BAR = 24
WHAT = bars.TextColumn("{task.description}", markup=False)
_RESULTS: ContextVar[TextIO | None] = ContextVar("where results go", default=None)
DataSetName = Literal["kinetics400", "kinetics600", "mini_kinetics200", "ssv2", "ucf101", "hmdb51"]


def read_data(
    data: Path,
    labels: Sequence[str] | None = None,
    test_fold: int | None = None,
    dataset: DataSetName | None = None,
    split: int | None = None,
) -> "dict[str, VideoList]":
    """Read the splits of a data set of the field, a folder of classes or a CSV file."""
    from atfr.data.records import read_csv, read_folder

    if dataset is not None:
        return _read_set(data, dataset, split, labels, test_fold)
    if split is not None:
        raise InputError("--split is for a --dataset with several splits (ucf101, hmdb51)")
    if data.is_file():
        return read_csv(data, labels=labels, test_fold=test_fold)
    if test_fold is not None and data.is_dir():
        raise InputError(f"--test_fold is for a CSV file with a column 'fold', '{data}' is a folder")
    return read_folder(data, labels=labels)


def _read_set(
    data: Path, dataset: DataSetName, split: int | None, labels: Sequence[str] | None, test_fold: int | None
) -> "dict[str, VideoList]":
    """Read a data set of the field, and say how much of it is missing."""
    from atfr.data.sets import DATA_SETS

    if test_fold is not None:
        raise InputError(f"--test_fold is for a CSV file with a column 'fold', not for {dataset}")
    found = DATA_SETS[dataset].read(data, split)
    splits = found.video_lists(labels)
    missing, listed = (Counter(video.split for video in videos) for videos in (found.missing, found.videos))
    needed = splits if labels is None else ("test",)
    if counts := [f"{missing[split]} of {listed[split]} {split} videos" for split in needed if missing[split]]:
        warn(f"{' and '.join(counts)} are not in '{data}' and left out; `atfr data check {dataset} {data}` lists them")
    return splits


def known_lengths(data: Path, *lists: "VideoList") -> list[list[int]]:
    """Return the numbers of frames of each list's videos, as `atfr data check` has found them, 0 where it has not."""
    from atfr.data.index import VideoIndex

    index = VideoIndex(data if data.is_dir() else data.parent)
    return [index.num_frames(videos) for videos in lists]


def load(checkpoint: Path, device: str, num_bins: int | list[int] | None = None) -> "tuple[VideoModel, Task]":
    """Read a checkpoint folder, on its device, with another number of bins if one is given."""
    with busy("loading the network"):
        from atfr.adapt import set_num_bins_
        from atfr.evaluate.task import load_checkpoint

        model, task = load_checkpoint(checkpoint)
        if num_bins is not None:
            set_num_bins_(model, num_bins)
        return model.to(device_of("--device", device)), task


def refuse(command: Callable[..., object], options: Mapping[str, Any], because: str) -> None:
    """Raise an InputError where an option of a command is not at its default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(command).parameters.items()}
    if given := [name for name, value in options.items() if value != defaults[name.lower()]]:
        names = ", ".join(name if name.isupper() else f"--{name}" for name in given)
        raise InputError(f"{because}; leave out {names}")


def clip_shape(own: Sequence[int], frames: int | None, size: int | None) -> tuple[int, ...]:
    """Return the shape of a clip, C T H W, with what the options --frames and --size say in place of its own."""
    from atfr.video.spec import MOST

    for name, value in (("--frames", frames), ("--size", size)):
        if value is not None:
            in_range(name, value, 1, MOST)
    return tuple(one if asked is None else asked for asked, one in zip((None, frames, size, size), own, strict=True))


def parse_views(views: str) -> ViewSpec | None:
    """Return the clips and crops of "10x3", or of X3D's "alpha" (10x1) and "beta" (10x3); None of "auto"."""
    if views == "auto":
        return None
    found = re.fullmatch(r"([1-9]\d{0,8})x([13])", {"alpha": "10x1", "beta": "10x3"}.get(views, views))
    if not found:
        raise InputError(
            "--views is CLIPSxCROPS, as 10x3 (10 clips, 3 crops each; crops are 1 or 3), alpha (10x1) or beta (10x3), "
            f"or auto, got {views!r}"
        )
    return ViewSpec(int(found[1]), int(found[2]))


def views_of(asked: ViewSpec | None, task: "Task", network: Path, changed: Mapping[str, bool]) -> ViewSpec:
    """Return the views that were asked for, or those that stop when `atfr calibrate --views` has found them.

    What was found holds for the network as it was, not with an option that has `changed` it.
    """
    if asked is None and (given := [name for name, is_other in changed.items() if is_other]):
        raise InputError(f"--views auto holds for the network as it was calibrated; leave out {', '.join(given)}")
    if (found := asked or task.views) is None:
        raise InputError(
            f"--views auto: when the views of '{network}' may stop is not known; find out on labelled videos: "
            "atfr calibrate CHECKPOINT --data DATA --views 10x3 --loss 1 (and, for a bundle, export it again)"
        )
    return found


def print_json(values: Any) -> None:
    """Print values as JSON on stdout; numbers that are not finite, which JSON does not know, are null."""
    print(json.dumps(finite(values), indent=2, allow_nan=False), file=_RESULTS.get() or sys.stdout)


@contextmanager
def only_json() -> Iterator[None]:
    """Keep stdout for `print_json` alone: whatever a library or a callback prints goes to stderr."""
    token = _RESULTS.set(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _RESULTS.reset(token)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], note: str = "", left: Sequence[int] = (0,)
) -> None:
    """Print a table on stdout, at most 80 columns wide; the columns numbered in `left` begin at the left.

    In a terminal too narrow for its words, each cell is a line, and each row a block.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=any(columns))
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number in left else "right", overflow="fold")
    for row in rows:
        table.add_row(*[Text(plain(str(cell))) for cell in row])
    console = _Results(highlight=False)
    console.width = min(console.width or WIDTH, WIDTH)  # COLUMNS=0 says that it is not known
    console.print(Text(plain(title), style="bold"))
    if console.measure(table, options=console.options.update(width=WIDTH)).minimum > console.width:
        for row in rows:
            cells = zip(columns, map(str, row), strict=True)
            console.print(Text("\n".join(f"{name} {plain(cell)}".strip() for name, cell in cells if cell) + "\n"))
    else:
        console.print(table)
    if any(cell == "–" for row in rows for cell in row):
        note = f"{note} –: there is no such figure.".strip()
    if note:
        console.print(Text(note, style="dim"))


class _Results(Console):
    """What prints tables; rich would end by a code of errors where the reader has gone (`atfr ... | head`)."""

    def on_broken_pipe(self) -> None:
        """Leave it to the command line, as everywhere."""
        raise BrokenPipeError


def print_histogram(title: str, counts: dict[int, int]) -> None:
    """Print how many clips kept how many maps, as bars."""
    most = max(counts.values())
    rows: list[list[object]] = []
    for active in range(min(counts), max(counts) + 1):
        count = counts.get(active, 0)
        rows.append([active, count, "█" * round(40 * count / most)])
    print_table(title, ["bins", "clips", ""], rows, left=(0, 2))


def warn(message: str) -> None:
    """Print a warning as one line on stderr."""
    note(f"warning: {message}")


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print what the library warns of as it prints errors."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: warn(str(message))
        yield


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on whose length is not known."""
    with _shown(bars.SpinnerColumn(), WHAT, bars.TimeElapsedColumn()) as shown:
        shown.add_task(what, total=None)
        yield


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on a terminal, elsewhere a line now and then; call it with (done, total)."""
    share = bars.TaskProgressColumn("{task.percentage:.0f} %")
    with _shown(WHAT, bars.BarColumn(BAR), share, bars.MofNCompleteColumn(), _Rate(), _TimeLeft()) as shown:
        task, say = shown.add_task(what, total=total), now_and_then(what)

        def report(done: int, total: int) -> None:
            shown.update(task, completed=done, total=total)
            if shown.disable:
                say(done, total)

        yield report


def now_and_then(what: str) -> Callable[[int, int], None]:
    """Return what, called with (done, total), says at most every half minute how far it is: for logs and pipes."""
    said_s, said = time.monotonic(), 0

    def say(done: int, total: int) -> None:
        nonlocal said_s, said
        if done < said:  # the next of several parts has begun
            said_s, said = time.monotonic(), done
        passed_s = time.monotonic() - said_s
        if passed_s >= LOG_EVERY_S and done > said:
            each_s = passed_s / (done - said)
            left = timedelta(seconds=round((total - done) * each_s))
            note(f"{what}: {done} of {total} ({100 * done / total:.0f} %), {_rate(1 / each_s)}, {left} left")
            said_s, said = said_s + passed_s, done

    return say


def _shown(*columns: bars.ProgressColumn) -> bars.Progress:
    """What goes on, on stderr, and only where somebody sees it: `FORCE_COLOR` makes no terminal of a pipe."""
    hidden = not sys.stderr.isatty() or Console(stderr=True).is_dumb_terminal
    return bars.Progress(
        *columns, console=Console(stderr=True), transient=True, disable=hidden, speed_estimate_period=SPEED_OVER_S
    )


class _Rate(bars.ProgressColumn):
    """How many get done a second, or how long each takes."""

    def render(self, task: bars.Task) -> Text:
        return Text(_rate(task.speed) if task.speed else "")


def _rate(speed: float) -> str:
    return f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each"


class _TimeLeft(bars.TimeRemainingColumn):
    """The time left, as soon as it can be told."""

    def render(self, task: bars.Task) -> Text:
        known = task.speed and not task.finished
        return Text.assemble(super().render(task), " left") if known else Text("")


@contextmanager
def process_group() -> Iterator[bool]:
    """Join the processes that torchrun has started, if it has; tell whether this is the one that writes."""
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_torchelastic_launched():
        yield True
        return
    dist.init_process_group("gloo")  # only results are exchanged
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def percent(share: float) -> str:
    """Return a share of 1 as a percentage."""
    return f"{100 * share:.1f} %"
