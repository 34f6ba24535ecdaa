"""Which faces are chosen, and that the choice is steady."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from accel.core import ConfigError
from accel.pipelines.select import Selection


def face(track: int, x: float, size: float, identity=None):
    corners = np.array([[x, 0, 0], [x + size, size, 0]], np.float32)
    return SimpleNamespace(track=track, landmarks=corners, identity=identity, score=1.0)


def tracks(faces):
    return [f.track for f in faces]


def test_all_keeps_every_face_in_order():
    assert tracks(Selection("all").choose([face(3, 50, 10), face(1, 0, 10)])) == [3, 1]


def test_largest_holds_on_until_another_is_clearly_larger():
    selection = Selection("largest")
    assert tracks(selection.choose([face(1, 0, 100), face(2, 200, 90)])) == [1]
    assert tracks(selection.choose([face(1, 0, 100), face(2, 200, 105)])) == [1]  # 1.1 x the area
    assert tracks(selection.choose([face(1, 0, 100), face(2, 200, 120)])) == [2]
    assert tracks(selection.choose([face(1, 0, 100)])) == [1]
    assert selection.choose([]) == []


def test_a_number_means_order_of_appearance_from_left_to_right():
    selection = Selection("2")
    assert tracks(selection.choose([face(7, 300, 50), face(9, 10, 50)])) == [7]  # 9 is left: first
    assert tracks(selection.choose([face(7, 0, 50), face(9, 200, 50)])) == [7]  # they changed sides
    assert selection.numbers == {9: 1, 7: 2}


def test_reference_compares_identities_with_hysteresis():
    reference = np.zeros(128, np.float32)
    at = lambda distance: np.eye(1, 128, dtype=np.float32)[0] * distance  # noqa: E731
    selection = Selection("reference", reference, 0.6)
    assert tracks(selection.choose([face(1, 0, 9, at(0.5)), face(2, 0, 9, at(0.62))])) == [1]
    assert tracks(selection.choose([face(1, 0, 9, at(0.62)), face(2, 0, 9, at(0.62))])) == [1]
    assert selection.choose([face(1, 0, 9, at(0.7))]) == []


@pytest.mark.parametrize("rule", ["", "0", "-1", "some", "1.5"])
def test_refuses_rules_that_mean_nothing(rule):
    with pytest.raises(ConfigError, match="select must be"):
        Selection(rule)


def test_reference_needs_a_picture():
    with pytest.raises(ConfigError, match="go together"):
        Selection("reference")
