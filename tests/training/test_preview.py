"""The pictures that a training draws of itself."""

from __future__ import annotations

import numpy as np
import pytest

from accel.training.preview import loss_curve, ticks


@pytest.mark.parametrize(
    ("high", "texts"),
    [
        (5.006, ["0", "2", "4"]),
        (4.9, ["0", "1", "2", "3", "4"]),
        (0.35, ["0.0", "0.1", "0.2", "0.3"]),
        (0.0123, ["0.000", "0.005", "0.010"]),
        (1e-6, ["0.0000000", "0.0000002", "0.0000004", "0.0000006", "0.0000008", "0.0000010"]),
        (1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
    ],
)
def test_losses_are_told_in_round_numbers(high, texts):
    assert [text for _, text in ticks(high)] == texts


@pytest.mark.parametrize(
    ("steps", "texts"),
    [(1, ["0", "1"]), (3, ["0", "1", "2", "3"]), (12, ["0", "5", "10"]),
     (5751, ["0", "2000", "4000"])],
)  # fmt: skip
def test_iterations_are_whole_and_stand_where_they_are(steps, texts):
    found = ticks(float(steps), least=1)
    assert [text for _, text in found] == texts
    assert [value for value, _ in found] == [float(text) for text in texts]


def test_a_curve_of_anything_is_a_picture():
    for history in ([], [[1.0, 2.0]], [[float("nan"), float("inf")]] * 3, [[0.0, 0.0]] * 9):
        assert loss_curve(history).std() > 10
    falling = loss_curve([[4 - i / 100, 5 - i / 100] for i in range(300)])
    assert (falling != loss_curve([])).any(-1).sum() > 500
    assert isinstance(falling, np.ndarray)
