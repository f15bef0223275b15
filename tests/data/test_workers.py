"""What a thread makes ahead comes in order, with its errors in their places, and no more of it than was asked for."""

import threading
from collections.abc import Iterator

import pytest

from atfr.data.workers import ahead


def test_items_come_in_order_from_another_thread() -> None:
    makers = set()

    def items() -> Iterator[int]:
        for number in range(20):
            makers.add(threading.current_thread())
            yield number

    assert list(ahead(items())) == list(range(20))
    assert len(makers) == 1
    assert threading.current_thread() not in makers
    assert not any(maker.is_alive() for maker in makers)


def test_the_next_is_made_while_one_is_worked_on_and_no_further() -> None:
    made: list[int] = []
    reached = threading.Condition()

    def items() -> Iterator[int]:
        for number in range(10):
            with reached:
                made.append(number)
                reached.notify_all()
            yield number

    stream = ahead(items())
    assert next(stream) == 0
    with reached:
        assert reached.wait_for(lambda: len(made) == 2, timeout=10), "made without being asked for"
        assert not reached.wait_for(lambda: len(made) > 2, timeout=0.2), "held: one more than asked for"
    stream.close()
    assert len(made) == 2


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ZeroDivisionError

    stream = ahead(items())
    assert next(stream) == 1
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert list(ahead([])) == []
