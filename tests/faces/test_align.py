from __future__ import annotations

import cv2
import numpy as np
import pytest

from accel.faces import align
from accel.faces.align import (
    compose,
    cover,
    enclosing_region,
    invert,
    overlap,
    region_matrix,
    similarity,
    transform,
)

RNG = np.random.default_rng(7)


def a_similarity(angle=0.7, scale=1.9, shift=(4.0, -11.0)) -> np.ndarray:
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def test_similarity_finds_the_map_that_made_the_points():
    points = RNG.normal(size=(3, 5, 2))
    made = np.stack([a_similarity(a) for a in (0.0, 2.0, -3.0)])
    np.testing.assert_allclose(similarity(points, transform(made, points)), made, atol=1e-9)


def test_similarity_is_the_least_squares_answer():
    points, target = RNG.normal(size=(8, 2)), RNG.normal(size=(8, 2))

    def cost(matrix):
        return float(((transform(matrix, points) - target) ** 2).sum())

    best = similarity(points, target)
    for _ in range(20):
        a, b, x, y = RNG.normal(size=4) * 1e-3
        assert cost(best + [[a, -b, x], [b, a, y]]) >= cost(best)


def test_similarity_never_mirrors():
    points = RNG.normal(size=(6, 2))
    matrix = similarity(points, points * [-1, 1])
    assert np.linalg.det(matrix[:, :2]) > 0


def test_similarity_of_equal_points_is_not_a_number():
    assert np.isnan(similarity(np.ones((5, 2)), RNG.normal(size=(5, 2)))).all()


def test_similarity_refuses_unlike_shapes():
    with pytest.raises(ValueError, match=r"got \(5, 2\) and \(4, 2\)"):
        similarity(np.ones((5, 2)), np.ones((4, 2)))


def test_invert_and_compose():
    a, b = a_similarity(), a_similarity(-0.3, 0.5, (1, 2))
    points = RNG.normal(size=(9, 2))
    np.testing.assert_allclose(transform(invert(a), transform(a, points)), points, atol=1e-12)
    np.testing.assert_allclose(transform(compose(b, a), points), transform(b, transform(a, points)))


def test_transform_scales_depth_as_lengths():
    moved = transform(a_similarity(scale=1.9), np.array([[0.0, 0.0, 3.0]]))
    assert moved[0, 2] == pytest.approx(5.7)


def test_region_matrix_puts_the_region_edges_on_the_crop_edges():
    # An unturned region whose left edge is the frame's: sample centres start half a sample in.
    matrix = region_matrix([49.5, 49.5, 100, 0], 50)
    np.testing.assert_allclose(
        transform(matrix, [[-0.5, -0.5], [99.5, 99.5]]), [[-0.5] * 2, [49.5] * 2]
    )


def test_region_matrix_turns_the_face_upright():
    # Eyes on a line of 30 degrees: in the crop they lie level, the right-hand one to the right.
    angle = np.deg2rad(30)
    eyes = np.array([[0, 0], [np.cos(angle), np.sin(angle)]]) * 10 + 50
    cropped = transform(region_matrix([50, 50, 80, angle], 64), eyes)
    assert cropped[0, 1] == pytest.approx(cropped[1, 1])
    assert cropped[1, 0] - cropped[0, 0] == pytest.approx(8)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (0,)])
@pytest.mark.parametrize("axes", [2, 3])
def test_enclosing_regions_of_many_sets_are_those_of_each(shape, axes):
    rng = np.random.default_rng(5)
    points = rng.normal(size=(*shape, 31, axes)).astype(np.float32) * 40
    angles = rng.uniform(-4, 4, shape)
    expected = align._enclosing(points.astype(np.float64), angles, 1.5)
    np.testing.assert_allclose(enclosing_region(points, angles, 1.5), expected, atol=1e-9)
    if points.size:
        points[..., 3, 1] = np.nan
        assert np.isnan(enclosing_region(points, angles)[..., :3]).all()


def test_enclosing_region_holds_all_points_and_turns_with_them():
    points = RNG.uniform(-5, 5, size=(20, 2)) * [3, 1]
    flat = enclosing_region(points, 0.0)
    np.testing.assert_allclose(flat[2], np.ptp(points[:, 0]))
    turned = enclosing_region(transform(a_similarity(0.4, 1.0), points), 0.4, margin=1.5)
    np.testing.assert_allclose(turned[2], flat[2] * 1.5)
    np.testing.assert_allclose(turned[:2], transform(a_similarity(0.4, 1.0), flat[None, :2])[0])


def test_overlap_is_intersection_over_union():
    boxes = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [5, 5, 6, 6], [0, 0, 0, 0]])
    np.testing.assert_allclose(overlap(boxes[:1], boxes), [1, 1 / 3, 0, 0])
    inner = np.array([0.5, 0.5, 1, 1])
    np.testing.assert_allclose(cover(boxes[:3], inner), [1, 0, 0])
    np.testing.assert_allclose(cover(boxes[0], boxes[1]), 0.5)


def test_similarity_agrees_with_opencv():
    points, made = RNG.normal(size=(30, 2)), a_similarity()
    theirs, _ = cv2.estimateAffinePartial2D(points, transform(made, points))
    np.testing.assert_allclose(similarity(points, transform(made, points)), theirs, atol=1e-6)
