from __future__ import annotations

import numpy as np
import pytest

from accel.faces import mesh
from accel.faces.align import transform
from accel.faces.crops import picture_planes
from accel.faces.face import head_pose, head_rotation, lid_openings, make_face, mouth_opening
from accel.faces.follow import Sight, Track, from_eyes, in_eyes
from accel.faces.landmark import drift, eye_matrices, face_region, wrap
from tests.faces.film import move, picture, planes_of, portrait
from tests.faces.test_detect import PUPILS

# Read off the enlarged portrait by eye, to two pixels: mesh point and place.
BY_EYE = {33: (195, 101), 263: (255, 103), 61: (203, 139), 291: (246, 140), 152: (223, 176)}


def test_landmarks_lie_where_the_eye_sees_them(astronaut):
    for index, place in BY_EYE.items():
        assert np.linalg.norm(astronaut[index, :2] - place) < 4, index


def test_landmarks_move_with_the_picture(models, astronaut):
    maps = [move(), move(dx=30, dy=10, zoom=1.3, turn=-25), move(zoom=0.7, turn=60)]
    frames = [planes_of(picture(m)) for m in maps]
    regions = [face_region(transform(m, astronaut)) for m in maps]
    found = models.measure(frames, regions)
    for (landmarks, presence), matrix in zip(found, maps):
        truth = transform(matrix, astronaut)
        size = np.ptp(truth[:, 1])
        assert presence > 0.9
        assert np.linalg.norm(landmarks - truth, axis=1).mean() < 0.03 * size  # depth too


def test_a_badly_centred_crop_is_looked_at_again(models, astronaut):
    planes = picture_planes(portrait())
    region = face_region(astronaut)
    off = region + [0.15 * region[2], 0, 0.2 * region[2], 0.25]
    before = models.again
    ((landmarks, _),) = models.measure([planes], [off])
    assert models.again == before + 1
    assert np.abs(landmarks - astronaut)[:, :2].max() < 0.05 * np.ptp(astronaut[:, 1])


def test_no_face_is_no_face(models):
    planes = picture_planes(portrait())
    regions = [np.array([x, 400.0, 120, 0]) for x in (80, 250, 400)]
    assert models.measure([planes] * 3, regions) == [None] * 3
    assert models.measure([], []) == []


def test_irises_lie_on_the_pupils_of_both_eyes(models, astronaut):
    (iris,) = models.iris([picture_planes(portrait())], astronaut[None])
    assert np.abs(iris[:, 0] - PUPILS).max() < 2
    rim = np.linalg.norm(iris[:, 1:] - iris[:, :1], axis=-1)
    assert (rim > 2).all()
    assert (rim < 8).all()


def test_the_left_eye_is_shown_in_the_mirror(astronaut):
    matrices = eye_matrices(astronaut[None])[0]
    right, left = np.linalg.det(matrices[:, :, :2])
    assert right > 0 > left
    for matrix, (outer, inner) in zip(matrices, mesh.EYE_CORNERS):
        a, b = transform(matrix, astronaut[[outer, inner], :2])
        assert a[0] < 31.5 < b[0]  # both look like right eyes


def test_irises_keep_their_place_in_the_eye(models, astronaut):
    (iris,) = models.iris([picture_planes(portrait())], astronaut[None])
    matrix = move(turn=40, zoom=2)
    moved = from_eyes(in_eyes(iris, astronaut), transform(matrix, astronaut))
    np.testing.assert_allclose(moved, transform(matrix, iris.reshape(-1, 2)).reshape(iris.shape))


def test_irises_are_interpolated_in_time(astronaut):
    track = Track(0, 0, 0, 0)
    for index in range(5):
        track.add(index, Sight(astronaut, 1.0))
    for index, at in ((0, 0.4), (4, 0.6)):
        track.sights[index].iris = np.full((2, 5), at + 0j)
    got = in_eyes(track.iris(1, astronaut, reach=8), astronaut)
    np.testing.assert_allclose(got, 0.45)


@pytest.mark.parametrize("yaw", [0, 30, -40])
@pytest.mark.parametrize("pitch", [0, 20, -25])
@pytest.mark.parametrize("roll", [0, 90, -15])
def test_head_pose(yaw, pitch, roll):
    y, p, r = np.deg2rad([yaw, pitch, -roll])  # the model's y axis is up, so roll turns back
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(-p), -np.sin(-p)], [0, np.sin(-p), np.cos(-p)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    rotation = about_z @ about_y @ about_x
    landmarks = (mesh.CANONICAL.astype(np.float64) @ rotation.T) * [9, -9, -9] + [50, 60, 7]
    np.testing.assert_allclose(head_rotation(landmarks), rotation, atol=1e-6)
    np.testing.assert_allclose(np.degrees(head_pose(landmarks)), [yaw, pitch, roll], atol=1e-4)


def test_pose_says_which_way_the_nose_points():
    landmarks = mesh.CANONICAL.astype(np.float64) * [9, -9, -9]
    turned = landmarks.copy()
    turned[:, 0] = landmarks[:, 0] * np.cos(0.5) - landmarks[:, 2] * np.sin(0.5)
    turned[:, 2] = landmarks[:, 0] * np.sin(0.5) + landmarks[:, 2] * np.cos(0.5)
    assert turned[4, 0] > turned[[33, 263], 0].mean()  # to the picture's right
    assert head_pose(turned)[0] == pytest.approx(0.5)


def test_openings_of_lids_and_mouth(astronaut):
    assert (lid_openings(astronaut) > 0.25).all()
    shut = astronaut.copy()
    for pairs in mesh.LIDS:
        for upper, lower in pairs:
            shut[upper] = shut[lower]
    np.testing.assert_allclose(lid_openings(shut), 0, atol=1e-9)
    shut[[a for a, _ in mesh.MOUTH_GAP]] = shut[[b for _, b in mesh.MOUTH_GAP]]
    assert mouth_opening(astronaut) > 0.1
    assert mouth_opening(shut) == 0


def test_drift_knows_turns_over_the_half_circle():
    a, b = np.array([0, 0, 10, np.pi - 0.01]), np.array([0, 0, 10, -np.pi + 0.01])
    assert drift(a, b) == pytest.approx(0.02)
    assert wrap(3 * np.pi / 2) == pytest.approx(-np.pi / 2)


def test_the_mesh_and_its_parts():
    triangles = np.sort(mesh.TRIANGLES, axis=1)
    assert mesh.CANONICAL.shape == (468, 3)
    assert mesh.UV.shape == (468, 2)
    assert triangles.shape == (898, 3)
    assert len(np.unique(triangles, axis=0)) == 898
    assert set(triangles.ravel()) == set(range(468))
    edges = {(a, b) for t in triangles for a, b in ((t[0], t[1]), (t[1], t[2]), (t[0], t[2]))}
    for ring in (mesh.OVAL, mesh.LIPS_OUTER, mesh.LIPS_INNER, *mesh.EYES):
        pairs = zip(ring, ring[1:] + ring[:1])
        assert all((min(p), max(p)) in edges for p in pairs)
    assert len(mesh.PROCRUSTES) == 33
    assert mesh.UV[10, 1] < mesh.UV[152, 1]  # the forehead lies above the chin


def test_68_points_go_from_jaw_to_lips(astronaut):
    points = mesh.to_68(astronaut)
    assert points.shape == (68, 3)
    assert points[8, 1] == points[:, 1].max()  # the chin
    assert (
        points[36, 0] < points[39, 0] < points[42, 0] < points[45, 0]
    )  # eye corners, left to right


def test_face_box_and_size(astronaut):
    face = make_face(
        track=3, landmarks=astronaut, raw=astronaut, iris=np.zeros((2, 5, 2)), score=0.9,
        identity=np.zeros(128),
    )  # fmt: skip
    assert face.landmarks.dtype == face.identity.dtype == np.float32
    x0, y0, x1, y1 = face.box
    assert face.size == max(x1 - x0, y1 - y0) > 100
