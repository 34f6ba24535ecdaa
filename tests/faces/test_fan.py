"""Heatmaps to points: cells, quarters of a cell, and the middle of a crop."""

from __future__ import annotations

import numpy as np

from accel.faces.fan import peaks


def test_a_lone_peak_lies_in_the_middle_of_its_cell():
    maps = np.zeros((2, 3, 64, 64), np.float32)
    maps[0, 1, 10, 20] = 1
    maps[1, 2, 0, 63] = 1
    found = peaks(maps)
    assert found.shape == (2, 3, 2)
    np.testing.assert_allclose(found[0, 1], [20.5, 10.5])
    np.testing.assert_allclose(found[1, 2], [63.5, 0.5])


def test_a_peak_leans_a_quarter_towards_its_higher_neighbour():
    maps = np.zeros((1, 1, 64, 64), np.float32)
    maps[0, 0, 30, 30], maps[0, 0, 30, 31], maps[0, 0, 29, 30] = 1, 0.5, 0.2
    np.testing.assert_allclose(peaks(maps)[0, 0], [30.75, 30.25])


def test_a_blob_is_found_to_a_quarter_of_a_cell():
    y, x = np.mgrid[:64, :64]
    for cx, cy in ((20.3, 40.8), (33.6, 12.1)):
        blob = np.exp(-((x + 0.5 - cx) ** 2 + (y + 0.5 - cy) ** 2) / 8)
        np.testing.assert_allclose(peaks(blob), [cx, cy], atol=0.3)
