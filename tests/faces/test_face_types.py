"""The square that each face type cuts, on faces whose place is known."""

from __future__ import annotations

import numpy as np
import pytest

from accel.core import ConfigError
from accel.faces import mesh
from accel.faces.align import invert, transform
from accel.faces.face_types import (
    FITTED,
    MEAN_FACE,
    FaceType,
    crop_corners,
    crop_matrix,
    face_type,
    unit_matrix,
    yaw_of,
)

SIDES = {
    FaceType.HALF: 1.0,
    FaceType.MID_FULL: 1.1909,
    FaceType.FULL: 1.5966,
    FaceType.WHOLE: 2.1314,
    FaceType.HEAD: 2.9799,
}
UP = {FaceType.WHOLE: 0.07, FaceType.HEAD: 0.5}


def landmarks(scale=100.0, angle=0.0, at=(300.0, 200.0)):
    """68 points whose fitted ones are exactly the mean face, turned, scaled and moved."""
    points = np.zeros((68, 2))
    points[list(FITTED)] = MEAN_FACE
    points[:17, 0], points[:17, 1] = np.linspace(0, 1, 17), 0.5  # a jaw symmetric about the nose
    points[:17, 0] += points[27, 0] - 0.5
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * points @ turn.T + at


@pytest.mark.parametrize("kind", SIDES)
def test_square_of_an_upright_face(kind):
    corners = crop_corners(landmarks(), kind)
    side = 100 * SIDES[kind]
    centre = np.array([350.0, 250.0 - 100 * UP.get(kind, 0)])
    around = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * side / 2
    np.testing.assert_allclose(corners, centre + around, atol=0.005 * side)
    assert side == pytest.approx(100 * kind.side, rel=1e-4)


@pytest.mark.parametrize("kind", SIDES)
@pytest.mark.parametrize("angle", [0.0, 0.7, 3.0])
def test_matrix_takes_corners_to_the_crops_corners(kind, angle):
    points = landmarks(angle=angle)
    moved = transform(crop_matrix(points, kind, 256), crop_corners(points, kind))
    np.testing.assert_allclose(moved, [[0, 0], [256, 0], [256, 256], [0, 256]], atol=1e-9)


@pytest.mark.parametrize("kind", SIDES)
def test_crop_looks_the_same_however_the_head_lies(kind):
    upright = landmarks()
    turned = landmarks(scale=37, angle=-2.1, at=(50, 80))
    seen = [transform(crop_matrix(p, kind, 512), p) for p in (upright, turned)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-6)


def test_types_that_do_not_turn_have_the_same_area():
    points = landmarks(angle=0.5)
    turned = crop_corners(points, FaceType.FULL)
    straight = crop_corners(points, FaceType.FULL_NO_ALIGN)
    np.testing.assert_allclose(straight.mean(0), turned.mean(0))
    np.testing.assert_allclose(straight[0, 1], straight[1, 1])
    side = np.linalg.norm(turned[1] - turned[0])
    np.testing.assert_allclose(straight[1] - straight[0], [side, 0], atol=1e-9)
    np.testing.assert_allclose(straight[3] - straight[0], [0, side], atol=1e-9)


def test_a_turned_head_moves_the_head_crop_sideways():
    points = landmarks()
    points[:17, 0] += 20  # the jaw's middle lies to the right of the nose
    yaw = float(yaw_of(transform(unit_matrix(points), points)))
    assert yaw == pytest.approx(0.4, abs=1e-6)
    centre = crop_corners(points, FaceType.HEAD).mean(0)
    assert centre[0] == pytest.approx(350 + 100 * yaw * np.tanh(2 * yaw) / 2, abs=1e-3)


def test_mesh_gives_an_upright_centred_face():
    """The canonical mesh through the 68-point map: eyes level, nose in the middle."""
    mesh_px = mesh.CANONICAL * [10, -10, 10] + [200, 200, 0]
    points = mesh.to_68(mesh_px)[:, :2]
    crop = transform(crop_matrix(points, FaceType.WHOLE, 256), points)
    right, left = crop[36:42].mean(0), crop[42:48].mean(0)
    assert abs(right[1] - left[1]) < 1
    assert right[0] < left[0]
    assert abs(crop[27:31, 0].mean() - 128) < 4
    assert crop[8, 1] > crop[57, 1] > crop[33, 1] > right[1]  # chin, lip, nose, eyes
    assert (crop > 0).all()
    assert (crop < 256).all()


def test_points_in_one_place_have_no_crop():
    assert np.isnan(crop_matrix(np.zeros((68, 2)), FaceType.FULL, 64)).all()


def test_names():
    assert face_type("whole") is face_type("wf") is face_type("whole_face") is FaceType.WHOLE
    assert [kind.code for kind in FaceType] == [0, 1, 2, 3, 4, 10, 20, 100]
    assert FaceType.HEAD.default_px == 768
    with pytest.raises(ConfigError, match="face type must be one of half"):
        face_type("quarter")
    with pytest.raises(ConfigError, match="cut out"):
        _ = FaceType.MARK_ONLY.side
    with pytest.raises(ValueError, match=r"\[..., 68, 2\]"):
        unit_matrix(np.zeros((5, 2)))


def test_invert_undoes():
    points = landmarks(angle=1.0)
    matrix = crop_matrix(points, FaceType.FULL, 96)
    np.testing.assert_allclose(transform(invert(matrix), transform(matrix, points)), points)
