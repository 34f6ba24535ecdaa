"""The rough look: the native reading of a spectrum is the one that Python defines."""

from __future__ import annotations

import numpy as np
import pytest

from accel.kernels import _native
from accel.provenance import detector

pytestmark = pytest.mark.skipif(_native.module is None, reason=_native.reason)


@pytest.mark.parametrize("size", [(180, 320), (181, 240), (90, 31), (2, 3), (1, 1)], ids=str)
def test_native_reads_between_samples_as_python_does(size, monkeypatch):
    residual = np.random.default_rng(size[0]).standard_normal(size).astype(np.float32)
    step = 360 / size[0], 360 / size[0]
    native = detector._folded_roughly(residual, detector.EVERY, step)
    monkeypatch.setattr(_native, "module", None)
    plain = detector._folded_roughly(residual, detector.EVERY, step)
    assert native.shape == (len(detector.EVERY), 2 * detector.REACH + 1, detector.REACH + 1)
    np.testing.assert_allclose(native, plain, atol=1e-5)
    assert np.abs(plain).max() > 0.5


def refused(spectrum=(8, 5, 2), down=(3, 7), right=(3, 4), out=(3, 7, 4, 2), place=0.0):
    _native.module.mark_trace(
        np.zeros(spectrum, np.float32), np.full(down, place), np.full(right, abs(place)),
        np.zeros(out, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"spectrum": (8, 5, 3)}, {"spectrum": (8, 1, 2)}, {"spectrum": (0, 5, 2)},
        {"down": (2, 7)}, {"down": (3, 6)}, {"right": (3, 5)}, {"right": (4, 4)},
        {"out": (3, 7, 4, 1)}, {"down": (3, 2), "out": (3, 2, 4, 2)}, {"place": float("nan")},
        {"place": 1e18},
    ],
    ids=str,
)  # fmt: skip
def test_native_refuses_what_does_not_fit(wrong):
    refused()
    with pytest.raises(ValueError, match="trace"):
        refused(**wrong)


def test_a_place_left_of_the_spectrum_is_refused():
    with pytest.raises(ValueError, match="below 0"):
        _native.module.mark_trace(
            np.zeros((8, 5, 2), np.float32), np.zeros((1, 7)), np.full((1, 4), -0.5),
            np.zeros((1, 7, 4, 2), np.float32),
        )  # fmt: skip
