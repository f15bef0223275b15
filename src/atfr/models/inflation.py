"""Inflation: what `inflate` exchanged, module by module; printed as a table."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class InflatedModule:
    """One module that `inflate` exchanged.

    Attributes:
        path: its path in the network, the same as in the image network.
        before: its class in the image network.
        after: its class now; the same where only its forward is another.
        temporal_kernel: maps that it looks at; 1 where it looks at each map alone, or at all of a clip.
        temporal_stride: every how many maps it gives one.
    """

    path: str
    before: str
    after: str
    temporal_kernel: int = 1
    temporal_stride: int = 1


class Inflation(tuple[InflatedModule, ...]):
    """The modules that `inflate` exchanged, a tuple; `str` gives a table with one row a module."""

    __slots__ = ()

    def __str__(self) -> str:
        head = ("path", "before", "after", "kernel", "stride")
        rows = [head, *([str(value) for value in astuple(module)] for module in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
