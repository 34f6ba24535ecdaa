from __future__ import annotations

import cv2
import numpy as np
import pytest

from accel.faces.align import transform
from accel.faces.crops import picture_planes
from accel.faces.face import frontalness
from accel.faces.find import find_faces
from accel.faces.follow import EMBED_EVERY, Sight, Track
from accel.faces.recognise import CHIP_POINTS, CHIP_PX, chip_matrices
from tests.faces.film import move, picture, planes_of, portrait


def test_the_chip_shows_the_face_upright_and_whole(astronaut):
    turned = transform(move(turn=130, zoom=1.7), astronaut)
    for landmarks in (astronaut, turned):
        (matrix,) = chip_matrices(landmarks[None])
        chip = transform(matrix, landmarks)
        assert np.linalg.det(matrix[:, :2]) > 0  # never mirrored
        left, right, nose = chip[CHIP_POINTS[0]], chip[CHIP_POINTS[2]], chip[CHIP_POINTS[4]]
        assert left[0] > 100 > 50 > right[0]
        assert abs(left[1] - right[1]) < 5
        assert nose[1] > left[1] + 30
        assert (chip[:, :2] > 0).all()
        assert (chip[:, :2] < CHIP_PX).all()


def test_the_same_person_darker_smaller_and_turned_is_the_same(models, astronaut):
    (here,) = models.recogniser([picture_planes(portrait())], [astronaut[None]])
    dark = (portrait() * 0.6).astype(np.uint8)
    matrix = move(turn=25, zoom=0.9)
    planes = planes_of(picture(matrix, of=dark))
    (there,) = models.recogniser([planes], [transform(matrix, astronaut)[None]])
    assert np.linalg.norm(here - there) < 0.35


def test_another_face_is_another(models, astronaut):
    # No second portrait may be shipped: the same one, its features moved far apart.
    (here,) = models.recogniser([picture_planes(portrait())], [astronaut[None]])
    height, width = portrait().shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    centre = astronaut[4, :2]
    far = np.hypot(x - centre[0], y - centre[1]) / 60
    pull = (1 + 0.75 * np.exp(-(far**2) * 3)).astype(np.float32)
    maps = (x - centre[0]) / pull + centre[0], (y - centre[1]) * pull + centre[1]
    warped = cv2.remap(portrait(), *(m.astype(np.float32) for m in maps), cv2.INTER_LINEAR)
    (face,) = find_faces(warped, models=models)
    # The skin and the hair stay the same; different people's are further apart still.
    assert np.linalg.norm(face.identity - here) > 0.5


def test_embed_takes_faces_in_batches(models):
    planes = picture_planes(portrait())
    faces = find_faces(planes, models=models)
    vectors = models.recogniser.embed(planes, faces * 3)
    assert vectors.shape == (3, 128)
    np.testing.assert_allclose(vectors, np.repeat(faces[0].identity[None], 3, axis=0), atol=1e-4)
    assert models.recogniser.embed(planes, []).shape == (0, 128)


def test_a_tracks_identity_is_a_mean_that_turned_faces_count_less_in(astronaut):
    track = Track(0, 0, 0, 0)
    profile = astronaut.copy()
    middle = profile[:, 0].mean()
    profile[:, 0], profile[:, 2] = middle + profile[:, 2], -(profile[:, 0] - middle)
    track.add(0, Sight(astronaut, 1.0))
    track.add(1, Sight(profile, 1.0))
    assert not track.identity.any()
    track.recognised(0, np.full(128, 1.0, np.float32))
    track.recognised(1, np.full(128, 0.0, np.float32))
    assert frontalness(profile) < 0.2 < 0.9 < frontalness(astronaut)
    assert track.identity[0] > 0.9


def test_who_it_is_is_asked_seldom(astronaut):
    track = Track(0, 0, 0, 0)
    asked = []
    for index in range(100):
        track.add(index, Sight(astronaut, 1.0))
        if index >= track.embed_at:
            asked.append(index)
            track.recognised(index, np.ones(128, np.float32))
    assert asked[:3] == [0, EMBED_EVERY // 3, EMBED_EVERY // 3 + EMBED_EVERY]
    assert len(asked) < 10
    assert track.identity == pytest.approx(1.0)
