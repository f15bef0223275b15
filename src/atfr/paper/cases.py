"""What is trained and what is tested for a line of a table, and the same cost with fewer frames."""

import bisect
from dataclasses import dataclass, replace
from functools import cache

from atfr.adapt.trace import INPUT
from atfr.comparison.plans import Place, place_of
from atfr.paper.compare import on_paper
from atfr.paper.figures import Line, Network
from atfr.paper.tables import Table

EXPECTED = 0.6
"""Of the static network's multiply-adds, in an estimate: what a network with a sampler takes."""

SLACK = 1.02
"""Fewer frames may cost so much more than what they are held against."""


@dataclass(frozen=True)
class Case:
    """A network that is trained, and how it is tested."""

    trained: Network  # as it is trained
    tested: Network  # the same with other frames or bins, where they change for the test
    stride: float  # of a test clip, as a share of the training's
    data: str  # the data set
    split: int | None = None  # of UCF101 and HMDB51
    published: bool = False  # with weights that others have published, instead of a training

    @property
    def as_trained(self) -> "Case":
        """The same network, tested as it was trained."""
        return replace(self, tested=self.trained, stride=1.0)

    @property
    def test(self) -> str:
        """The name of the test's folder."""
        told = [] if self.tested.frames == self.trained.frames else [f"frames_{self.tested.frames}"]
        told += [f"{name}_{value}" for name, value in self.tested.options if (name, value) not in self.trained.options]
        told += [f"size_{self.tested.size}"] if self.tested.size != self.trained.size else []
        return "_".join(["test", *told, *([f"stride_{self.stride:g}"] if self.stride != 1 else [])])


def case_of(line: Line) -> Case | None:
    """Return what a line is of; None where it is cited."""
    if line.network is None or line.trained is None:
        return None
    return Case(line.trained, line.network, line.stride, line.data)


def reference_of(table: Table, line: Line) -> Case | None:
    """Return what a line is held against: the reference of its table, or the same network with all maps."""
    case = case_of(line)
    if table.reference:
        return case_of(next(one for one in table.lines if one.setting == table.reference and one.model == line.model))
    return case and replace(case, trained=case.trained.static, tested=case.tested.static)


def evenly_spaced(case: Case, trained_gflops: float, gflops: float) -> Case:
    """Return the same network on as many evenly spaced frames as cost no more, in training and in the test."""
    return replace(case, trained=fewer_frames(case.trained, trained_gflops), tested=fewer_frames(case.tested, gflops))


def fewer_frames(network: Network, gflops: float) -> Network:
    """Return a network on the most evenly spaced frames that cost no more; one frame at least."""
    numbers = range(1, network.frames)
    most = bisect.bisect_right(numbers, SLACK * gflops, key=lambda frames: gflops_on(network.static, frames))
    options = (("sampler", "uniform"), ("active_bins", max(1, most)))
    return replace(network.static, after=INPUT, options=options)


@cache
def gflops_on(network: Network, frames: int) -> float:
    """Return the multiply-adds / 1e9 of a clip of which so many evenly spaced frames go into the network."""
    return at_input(network).cost((frames,))[0]


@cache
def at_input(network: Network) -> Place:
    """Return a network on the meta device with a sampler at its input."""
    return place_of(on_paper(network), INPUT, network.clip_shape)
