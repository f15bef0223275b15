"""Trainings that are killed at random moments end as if nothing had happened, bit for bit (one process, CPU)."""

from pathlib import Path

import pytest

from tests.evaluate.build import write_folder
from tests.train.killing import train_through_kills

pytestmark = [
    pytest.mark.usefixtures("few_layers"),
    pytest.mark.filterwarnings("always:.*going on from:UserWarning"),  # a kill may come between two moves
]


def test_a_kill_leaves_no_trace(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", classes=2, train=4, test=1)
    train_through_kills(data, tmp_path, kills=1, epochs=4)


@pytest.mark.soak
def test_ten_kills_leave_no_trace(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", classes=2, train=4, test=1)
    done = train_through_kills(data, tmp_path, kills=10, epochs=60)
    print(f"epochs done at each kill, of 60: {done}")
