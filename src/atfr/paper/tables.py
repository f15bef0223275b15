"""The tables and figures of the paper: which lines each has, what they are held against, what is drawn."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from atfr.errors import InputError
from atfr.evaluate.result import TestResult
from atfr.paper.figures import LINES, Line
from atfr.viz.run_figures import accuracy_against_gflops, active_bins, class_resolutions

ADAPTIVE_50 = tuple(line for line in LINES if (line.table, line.model) == ("7", "3DResNet-50+ATFR"))


@dataclass(frozen=True)
class Table:
    """A table or figure."""

    name: str  # as the paper has it: "6", "A.2", "Fig. 3"
    title: str  # what it asks
    lines: tuple[Line, ...]  # in the paper's order
    # the setting of the line that the others are held against; None: each is against its static network
    reference: str | None = None
    # makes the figure of the tests of its lines, by their names; None where the paper has none
    draw: Callable[[Mapping[str, TestResult]], Figure] | None = None
    maps: bool = False  # whether it shows the feature maps of a clip (Fig. A.5)
    paper: str = ""  # what the paper has beside figures
    classes: bool = False  # whether it names the classes that keep fewest and most maps

    @property
    def file(self) -> str:
        """What its files are called."""
        return "fig_" + short(self.name)[3:] if self.name.startswith("Fig") else "table_" + short(self.name)

    @property
    def metrics(self) -> list[str]:
        """What the paper gives of its lines, in its order."""
        return list(dict.fromkeys(metric for line in self.lines for metric in line.paper))

    def chosen(self, rows: Sequence[str] | None) -> list[Line]:
        """Return the lines whose names have one of these parts; by default all.

        Raises:
            InputError: none has.
        """
        lines = [line for line in self.lines if rows is None or any(row.lower() in line.name.lower() for row in rows)]
        if not lines:
            names = "; ".join(line.name for line in self.lines)
            raise InputError(f"--rows is a list of parts of the rows' names, got {rows}; table {self.name} has {names}")
        return lines


def of(table: str) -> tuple[Line, ...]:
    """Return the lines of a table of the paper."""
    return tuple(line for line in LINES if line.table == table)


TABLES = (
    Table("1", "similarity measures", of("1"), "magnitude"),
    Table("2", "sampling kernels", of("2"), "linear"),
    Table("3", "dimension of the similarity space", of("3"), "L=8"),
    Table("4", "frames and strides of test clips", of("4")),
    Table(
        "5",
        "classes with the lowest and the highest resolution",
        ADAPTIVE_50,
        draw=class_resolutions,
        paper="Below 12 maps: presenting weather forecast, stretching leg, playing didgeridoo, playing clarinet, golf "
        "putting; above 20: passing American football (in game), swimming breast stroke, playing ice hockey, pushing "
        "cart, gymnastics tumbling.",
        classes=True,
    ),
    Table("6", "where SGS stands", of("6")),
    Table("7", "Mini-Kinetics", of("7")),
    Table("8", "Kinetics-400", of("8")),
    Table("9", "Kinetics-600", of("9")),
    Table("10", "Something-Something V2", of("10")),
    Table("A.2", "time of training and inference", of("A.2")),
    Table("A.3", "bins in training and test", of("A.3"), "B=32 train and test"),
    Table("A.4", "fewer bins in the test alone", of("A.4"), "B=32 test only"),
    Table("A.5", "UCF101 and HMDB51", of("A.5")),
    Table("A.6", "temporal attention", of("A.6")),
    Table("Fig. 3", "active bins of clips", ADAPTIVE_50, draw=active_bins),
    Table(
        "Fig. 4",
        "accuracy against GFLOPs on Kinetics-400",
        tuple(line for line in of("8") if line.network and "R101" not in line.model),
        draw=accuracy_against_gflops,
    ),
    Table("Fig. A.5", "feature maps before and behind SGS", ADAPTIVE_50, maps=True),
)


def short(name: str) -> str:
    """Return a name without what may be spelled in several ways.

    Examples:
        >>> [short(name) for name in ("A.2", "Table A.2", "fig.3")]
        ['a2', 'a2', 'fig3']
    """
    return re.sub(r"^table|^figure|[ ._]", lambda found: "fig" if found[0] == "figure" else "", name.lower())


def find(name: str) -> Table:
    """Return the table of a name.

    Raises:
        InputError: there is none.
    """
    for table in TABLES:
        if short(table.name) == short(name):
            return table
    raise InputError(f"no table or figure {name!r}; there are {', '.join(table.name for table in TABLES)}")
