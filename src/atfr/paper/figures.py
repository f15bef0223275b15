"""The lines of the paper's tables: their figures, and the network of ours that each is held against.

tables.csv has a line each; what is empty there the paper does not give, or is at its default.

Source: Fayyaz et al. 2021 (arXiv 2011.08652v4), Tables 1 to 10 and A.2 to A.6. Sizes: Sec. 5 (224 x 224 for validation,
256 x 256 for testing); X3D is tested as in its own paper (Feichtenhofer 2020).
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

METRICS = ("gflops", "top1", "top5", "train_hours", "inference_fps", "max_batch")


@dataclass(frozen=True)
class Network:
    """One of our networks at a clip size, static or with a sampler."""

    name: str  # as `create_model` knows it
    frames: int  # T of the clip
    size: int  # its height and width
    strides: tuple[int, ...] | None = None  # the temporal strides of R(2+1)D where they are not its own
    after: str | None = None  # where the sampler stands; None for the static network
    options: tuple[tuple[str, Any], ...] = ()  # what else `adapt_` is given, by name

    @property
    def clip_shape(self) -> tuple[int, int, int, int]:
        """C, T, H, W."""
        return (3, self.frames, self.size, self.size)

    @property
    def arguments(self) -> dict[str, Any]:
        """What `create_model` is given beside the name."""
        return {"temporal_strides": self.strides} if self.strides else {}

    @property
    def sampler(self) -> str | None:
        """What `adapt_` calls it."""
        return None if self.after is None else dict(self.options).get("sampler", "sgs")

    @property
    def adaptive(self) -> bool:
        """Whether a clip's cost depends on what is in it."""
        return self.sampler == "sgs"

    @property
    def static(self) -> "Network":
        """The same network with all maps."""
        return Network(self.name, self.frames, self.size, self.strides)

    @property
    def sampled(self) -> str:
        """What stands where, as the name of a file.

        Examples:
            >>> sgs(X3D_S, num_bins=(4, 8)).sampled
            'sgs_res2_num_bins_4x8'
        """
        if self.after is None:
            return "static"
        told = [
            f"{name}_{'x'.join(map(str, value)) if isinstance(value, tuple) else value}"
            for name, value in self.options
            if name != "sampler"
        ]
        return "_".join([str(self.sampler), self.after, *told])


@dataclass(frozen=True)
class Line:
    """A line of a table of the paper."""

    table: str  # its number in the paper
    model: str  # the paper's name
    setting: str  # what sets the line apart from others of the same model
    network: Network | None  # ours, as it is tested; None where the line is cited alone
    # the paper's figures: top1 and top5 in percent, gflops (multiply-adds / 1e9; of an adaptive network the mean over
    # clips), and those of Table A.2
    paper: Mapping[str, float] = field(hash=False)
    trained: Network | None  # the network as it is trained, which may have other frames, bins or sizes
    stride: float  # of a test clip, as a share of the training's
    data: str  # the data set
    note: str  # why ours differs, where it does; of a cited line, its source

    @property
    def name(self) -> str:
        """The model, and its setting if it has one."""
        return f"{self.model}, {self.setting}" if self.setting else self.model


NOTES = {
    "r2plus1d_18": "The paper does not say which R(2+1)D this is. R(2+1)D-18 as published costs 324 GFLOPs at 32 x 224 "
    "x 224, and still 183 with a temporal stride of 2 in each of its four stages. Nearest is the latter at 112 x 112, "
    "the size it is made for; it leaves SGS half of the frames, and what comes before SGS costs more than the paper's "
    "54.9.",
    "r2plus1d_50": "The paper does not give the temporal strides; 1, 2, 2, 2 in res2 to res5 is nearest at 256 x 256. "
    "At 224 x 224 strides of 1, 2, 1, 1 give 101.81, the paper's figure.",
    "x3d_s": "1.96 in X3D's own paper and here: cut off after one decimal, not rounded.",
    "x3d_m": "X3D-M is made for 224 x 224 (4.73 GFLOPs); 30 views are crops of 256 x 256.",
    "x3d_xl": "10 views (alpha) are at 312 x 312; 30 (beta) are crops of 356 x 356.",
    "twice": "Ours is twice that of 32 frames, 65.71; the paper's is 1.4 more than twice its own 65.7.",
    "attention": "1.963 without the attention and 1.970 with it; the paper has 1.9 for both, cut off after one "
    "decimal.",
}
"""Why ours differs, by what stands in the column `note`."""


def sgs(network: Network, after: str = "res2", **options: Any) -> Network:
    """Return the network with SGS."""
    return replace(network, after=after, options=tuple(options.items()))


RESNET3D_18, RESNET3D_50 = Network("resnet3d_18", 32, 224), Network("resnet3d_50", 32, 256)
X3D_S = Network("x3d_s", 13, 160)


def read_line(row: Mapping[str, str]) -> Line:
    """Return a line of a row of tables.csv."""
    tested = trained = network_of(row) if row["network"] else None
    if tested and row["trained"]:
        changes: dict[str, Any] = dict(change.split("=") for change in row["trained"].split())
        changes = {name: int(value) if value else () for name, value in changes.items()}
        trained = replace(tested, **changes)
    paper = {metric: float(row[metric]) for metric in METRICS if row[metric]}
    about = (row["table"], row["model"], row["setting"])
    note = NOTES.get(row["note"], row["note"])
    return Line(*about, tested, paper, trained, float(row["stride"] or 1), row["data"], note)


def network_of(row: Mapping[str, str]) -> Network:
    """Return the network that a row names."""
    strides = tuple(map(int, row["strides"].split())) or None
    options = tuple((name, value_of(text)) for name, text in (each.split("=") for each in row["options"].split()))
    return Network(row["network"], int(row["frames"]), int(row["size"]), strides, row["after"] or None, options)


def value_of(text: str) -> Any:
    """Return the value of an option: 8, 2x4x4 for several numbers, or a word."""
    numbers = text.split("x")
    if not all(number.isdigit() for number in numbers):
        return text
    return int(text) if len(numbers) == 1 else tuple(map(int, numbers))


ROWS = Path(__file__).with_name("tables.csv").read_text(encoding="utf-8").splitlines()
LINES = tuple(map(read_line, csv.DictReader(ROWS)))

FIGURES = tuple(
    {
        (one.table, one.model, one.network, one.paper["gflops"]): one
        for one in LINES
        if one.network and "gflops" in one.paper
    }.values()
)
"""Those with GFLOPs, of networks of ours; the cost does not depend on the stride."""
