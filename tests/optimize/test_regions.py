"""Which parts of a network are read, and how often."""

from torch import Tensor, nn

from atfr.optimize.regions import regions


class Counting(nn.Module):
    """Counts how often its forward runs, where torch.fx does not see it."""

    def __init__(self, runs: list[int]) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 3, 1)
        self.count = staticmethod(lambda: runs.append(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count()
        return self.conv(x)


class Unreadable(nn.Module):
    """Asks what torch.fx does not know."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.shape[2] > 1 else x


def nested(module: nn.Module, depth: int) -> nn.Module:
    for _ in range(depth):
        module = nn.Sequential(module)
    return module


def test_a_forward_is_read_as_often_however_deep_it_lies() -> None:
    for depth in (1, 2, 9):
        runs: list[int] = []
        assert list(regions(nested(Counting(runs), depth))) == [""]
        assert len(runs) == 2


def test_what_cannot_be_read_stays_a_module_of_what_is_around_it() -> None:
    unreadable = Unreadable(nested(Counting([]), 2))
    found = regions(nn.Sequential(nested(Counting([]), 2), nested(unreadable, 1), nn.Conv3d(3, 3, 1)))
    assert list(found) == [""]
    assert [node.target for node in found[""].graph.find_nodes(op="call_module")] == ["0.0.0.conv", "1.0", "2"]
