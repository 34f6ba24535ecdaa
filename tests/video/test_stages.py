from __future__ import annotations

import threading
import time

import pytest

from accel.video.stages import buffered


def _threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("accel-")}


def test_order_is_kept():
    assert list(buffered(range(100), size=3)) == list(range(100))
    assert list(buffered([], size=1)) == []


def test_it_runs_ahead_by_its_size_and_no_more():
    made = []

    def numbers():
        for number in range(50):
            made.append(number)
            yield number

    iterator = buffered(numbers(), size=4)
    assert made == []
    next(iterator)
    time.sleep(0.1)
    assert 5 <= len(made) <= 6  # one taken, four waiting, one in the producer's hand
    iterator.close()


def test_exceptions_come_after_the_items_before_them():
    def numbers():
        yield 1
        yield 2
        raise OSError("disk")

    iterator = buffered(numbers())
    assert [next(iterator), next(iterator)] == [1, 2]
    with pytest.raises(OSError, match="disk"):
        next(iterator)
    assert not _threads()


@pytest.mark.parametrize("taken", [1, 3])
def test_closing_stops_the_thread_and_the_generator(taken):
    closed_in = []

    def numbers():
        try:
            number = 0
            while True:
                yield number
                number += 1
        finally:
            closed_in.append(threading.current_thread().name)

    iterator = buffered(numbers(), size=2, name="test")
    for _ in range(taken):
        next(iterator)
    iterator.close()
    assert closed_in == ["accel-test"]
    assert not _threads()


def test_an_error_of_the_consumer_stops_the_thread():
    def use():
        for number in buffered(iter(int, 1), size=2):
            raise KeyError(number)

    with pytest.raises(KeyError):
        use()
    deadline = time.monotonic() + 2
    while _threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _threads()


def test_size_must_be_positive():
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        buffered([], size=0)
