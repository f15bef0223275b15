import math

import pytest

from atfr.train.module import learning_rate_factor


def test_schedule_rises_linearly_then_falls_as_half_a_cosine() -> None:
    factors = [learning_rate_factor(step, 100, 20) for step in range(101)]
    assert factors[:20] == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert factors[20:] == pytest.approx([0.5 * (1 + math.cos(math.pi * (step - 20) / 80)) for step in range(20, 101)])
    assert factors[60] == pytest.approx(0.5)
    assert factors[100] == 0
    assert learning_rate_factor(150, 100, 20) == 0
    assert learning_rate_factor(0, 10, 0) == 1
