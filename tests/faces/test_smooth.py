"""Smoothing on made-up signals: steady where nothing moves, without lag where something does."""

from __future__ import annotations

import numpy as np
import pytest

from accel.faces import mesh
from accel.faces import smooth as smooth_module
from accel.faces.align import transform
from accel.faces.follow import Sight, Track
from accel.faces.smooth import smooth

FACE = mesh.CANONICAL.astype(np.float64) * [12, -12, -12] + [200, 200, 0]  # about 220 px high
RNG = np.random.default_rng(3)
REACH = 8


def smoothed(series: np.ndarray) -> np.ndarray:  # [T, 468, 3] -> as it
    count = len(series)
    spans = [(max(0, t - REACH), min(count, t + REACH + 1)) for t in range(count)]
    return np.stack([smooth(series[low:high], t - low) for t, (low, high) in enumerate(spans)])


def jitter(series: np.ndarray) -> float:
    return float(np.median(np.abs(np.diff(series[..., :2], 2, axis=0))))


def along(path: np.ndarray) -> np.ndarray:
    """The face, shifted by path [T, 2]."""
    return FACE + np.concatenate([path, np.zeros((len(path), 1))], axis=1)[:, None]


def test_a_still_noisy_face_becomes_steady():
    noisy = along(np.zeros((40, 2))) + RNG.normal(size=(40, 468, 3)) * 0.7
    steady = smoothed(noisy)
    assert jitter(steady) < 0.15 * jitter(noisy)
    assert np.abs(steady.mean(axis=0) - FACE)[:, :2].max() < 0.5


def test_even_motion_passes_as_it_is():
    t = np.arange(30.0)
    moving = along(np.stack([6 * t, -3 * t], axis=1))
    np.testing.assert_allclose(smoothed(moving), moving, atol=1e-6)


def test_turning_and_growing_evenly_passes_as_it_is():
    steps = [
        1.02**t
        * np.array([[np.cos(0.02 * t), -np.sin(0.02 * t)], [np.sin(0.02 * t), np.cos(0.02 * t)]])
        for t in range(20)
    ]
    middle = FACE.mean(axis=0)[:2]
    series = np.stack([transform(np.c_[m, middle - m @ middle], FACE) for m in steps])
    assert np.abs(smoothed(series) - series)[4:-4, :, :2].max() < 0.3


@pytest.mark.parametrize("speed", [1.0, 6.0, 20.0])
def test_a_start_from_rest_does_not_lag_and_does_not_lead(speed):
    t = np.arange(41.0)
    path = np.stack([speed * np.maximum(t - 20, 0), 0 * t], axis=1)
    off = (smoothed(along(path)) - along(path))[:, 0, 0]
    # Symmetric about the corner: as much early before as late after, and little of either.
    np.testing.assert_allclose(off[12:29], off[12:29][::-1], atol=1e-6 + 0.02 * speed)
    assert np.abs(off).max() < max(0.3 * speed, 0.6)  # or less than what the networks' noise is


def test_answers_time_reversed_films_time_reversed():
    path = np.cumsum(np.cumsum(RNG.normal(size=(30, 2)), axis=0), axis=0) * 0.2
    series = along(path) + RNG.normal(size=(30, 468, 3)) * 0.4
    np.testing.assert_allclose(smoothed(series[::-1])[::-1], smoothed(series), atol=1e-6)


def test_fast_shaking_keeps_its_width():
    t = np.arange(48)
    path = np.stack([25 * np.sin(2 * np.pi * t / 12), 0 * t], axis=1)
    kept = np.ptp(smoothed(along(path))[8:-8, 4, 0]) / np.ptp(along(path)[8:-8, 4, 0])
    assert 0.93 < kept < 1.03


def test_a_blink_on_a_still_head_stays_a_blink():
    series = np.repeat(FACE[None], 31, axis=0) + RNG.normal(size=(31, 468, 3)) * 0.2
    upper = [159, 158, 160, 161, 157, 173, 246]
    drop = np.zeros(31)
    drop[13:18] = [3, 7, 8, 7, 3]
    series[:, upper, 1] += drop[:, None]
    closed = (smoothed(series) - FACE)[:, 159, 1]
    assert closed[15] > 0.8 * 8
    assert abs(closed[:10]).max() < 0.5
    assert abs(closed[21:]).max() < 0.5


def test_windows_of_one_and_two_frames():
    np.testing.assert_array_equal(smooth(FACE[None], 0), FACE)
    np.testing.assert_array_equal(smooth(np.stack([FACE, FACE + 1]), 1), FACE + 1)


def test_a_frame_of_no_weight_does_not_count():
    series = np.repeat(FACE[None], 9, axis=0)
    series[5] += 40
    weights = np.ones(9)
    weights[5] = 0
    np.testing.assert_allclose(smooth(series, 4, weights), FACE, atol=1e-6)


def test_refuses_a_frame_outside_the_window():
    with pytest.raises(ValueError, match=r"at must lie in 0..8, got 9"):
        smooth(np.repeat(FACE[None], 9, axis=0), 9)


def track_of(series) -> Track:
    track = Track(number=0, scene=0, first=0, last=0)
    for index, landmarks in series.items():
        track.add(index, Sight(landmarks, 1.0))
    return track


def test_nothing_smears_over_a_jump():
    series = {t: FACE + (0 if t < 10 else 300) for t in range(20)}
    track = track_of(series)
    for t in range(20):
        np.testing.assert_allclose(track.smoothed(t, REACH), series[t], atol=1e-6)


def test_gaps_are_filled_evenly_when_short_and_not_when_long():
    track = track_of({0: FACE, 4: FACE + 8})
    assert track.fill(max_gap=2) == 0
    assert track.fill(max_gap=3) == 3
    np.testing.assert_allclose(track.sights[1].landmarks, FACE + 2)
    assert track.sights[2].filled
    assert 0.5 <= track.sights[2].score < 1
    assert track.seen == 2


def test_a_gap_with_a_jump_stays_a_gap():
    assert track_of({0: FACE, 2: FACE + 500}).fill(max_gap=8) == 0


def test_a_region_is_foretold_at_constant_velocity():
    track = track_of({t: FACE + [5.0 * t, 0, 0] for t in range(4)})
    moved = track.predict(5)[:2] - track.sights[3].region[:2]
    np.testing.assert_allclose(moved, [10, 0], atol=1e-6)


@pytest.mark.skipif(smooth_module.native is None, reason="needs the native module")
@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize(("count", "at"), [(3, 0), (5, 4), (17, 8), (12, 2)])
def test_native_code_gives_the_same(axes, count, at, monkeypatch):
    path = np.cumsum(RNG.normal(size=(count, 2)), axis=0)
    series = (along(path) + RNG.normal(size=(count, 468, 3)) * 0.5)[..., :axes]
    weights = RNG.uniform(0.2, 1.0, count)
    ours = smooth(series, at, weights)
    monkeypatch.setattr(smooth_module, "native", None)
    np.testing.assert_allclose(ours, smooth(series, at, weights), rtol=0, atol=1e-9)


@pytest.mark.parametrize("native", [True, False])
def test_points_that_lie_on_each_other_are_refused(native, monkeypatch):
    if not native:
        monkeypatch.setattr(smooth_module, "native", None)
    with pytest.raises(ValueError, match="must not lie on each other"):
        smooth(np.ones((5, 468, 3)), 2)
