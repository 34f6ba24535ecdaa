from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from accel.faces.align import compose, invert, region_matrix, transform
from accel.faces.crops import halved, picture_planes, rgb_crops
from accel.faces.detect import (
    FULL_RANGE,
    NEAR,
    Detection,
    distinct,
    find_all,
    fine_views,
    near_views,
    whole_view,
)
from accel.faces.find import find_faces
from accel.faces.landmark import drift, face_region
from accel.kernels.crop import crop
from tests.faces.film import grey, move, picture, planes_of, portrait

PUPILS = np.array([[203.0, 100.8], [246.3, 103.4]])  # in the portrait, read off by eye


@pytest.mark.parametrize("detector", ["full", "near"])
def test_finds_the_face_and_its_eyes(models, detector):
    planes = picture_planes(portrait())
    (found,) = getattr(models, detector).find(planes, whole_view(planes))
    assert found.score > 0.8
    assert np.abs(found.keypoints[:2] - PUPILS).max() < 6  # right eye first
    assert found.box[0] < 190 < 260 < found.box[2]
    assert found.box[1] < 95 < 160 < found.box[3]


def test_what_it_finds_moves_with_the_picture(models):
    home, moved = move(), move(dx=40, dy=-20, turn=20)
    views = [planes_of(picture(m)) for m in (home, moved)]
    a, b = (models.full.find(planes, whole_view(planes))[0] for planes in views)
    centre = transform(compose(moved, invert(home)), a.region[None, :2])
    assert np.linalg.norm(centre - b.region[:2]) < 0.08 * b.region[2]
    assert np.degrees(b.region[3] - a.region[3]) == pytest.approx(20, abs=5)


def test_detections_lead_to_the_region_the_mesh_would_ask_for(models, astronaut):
    planes = picture_planes(portrait())
    (found,) = models.full.find(planes, whole_view(planes))
    assert drift(found.region, face_region(astronaut)) < 0.25


def test_a_turned_view_finds_a_turned_face(models):
    planes = planes_of(np.rot90(picture(move())).copy())
    (found,) = models.full.find(planes, whole_view(planes, -np.pi / 2))
    assert np.degrees(found.region[3]) == pytest.approx(-87, abs=8)


def test_finds_nothing_in_nothing(models):
    planes = planes_of(grey())
    assert models.full.find(planes, whole_view(planes)) == []


def test_strips_without_room_for_a_face_are_not_shrunk(models):
    strip = planes_of(np.full((4, 30_000, 3), 120, np.uint8))
    before = models.full.runs
    assert models.full.find(strip, whole_view(strip, np.pi / 2)) == []
    assert models.full.runs == before


def test_near_views_cover_the_frame():
    for size in ((1920, 1080), (1080, 1920), (512, 512)):
        planes = planes_of(np.zeros((size[1], size[0], 3), np.uint8))
        views = near_views(planes)
        assert len(views) in (3, 4)
        fine = fine_views(planes)
        assert len(fine) >= len(views)
        assert fine[0, 2] < views[0, 2]
        for x in (0, planes.width - 1):
            for y in (0, planes.height - 1):
                inside = np.abs(views[:, :2] - [x, y]).max(axis=1) <= views[:, 2] / 2
                assert inside.any()


def test_small_frames_are_looked_at_whole():
    planes = planes_of(np.zeros((90, 120, 3), np.uint8))
    np.testing.assert_array_equal(near_views(planes), whole_view(planes))
    assert len(fine_views(planes)) == 0


def test_a_small_face_in_a_large_frame(models):
    frame = cv2.resize(grey(3), (1280, 720))
    small = cv2.resize(portrait(), None, fx=0.42, fy=0.42, interpolation=cv2.INTER_AREA)
    frame[300 : 300 + len(small), 900 : 900 + len(small)] = small
    (face,) = find_faces(frame, models=models)
    assert face.size < 0.07 * 720
    x, y = 900 + 0.42 * 224, 300 + 0.42 * 125
    assert face.box[0] < x < face.box[2]
    assert face.box[1] < y < face.box[3]


def test_threads_that_share_the_views_find_the_same_faces(models):
    """Each of them runs the network in memory of its own."""
    planes = planes_of(picture(move(dx=-70, zoom=0.8), move(zoom=0.5, dx=80)))
    views = np.concatenate([near_views(planes), fine_views(planes)])
    near = models.near
    before = near.runs
    alone, shared = (near.find(planes, views, threads=count) for count in (1, 3))
    assert near.runs - before == 2 * len(views)
    assert len(alone) == len(shared) >= 2
    for one, other in zip(alone, shared):
        np.testing.assert_array_equal(one.region, other.region)
        assert one.score == other.score


def test_threads_share_the_views_of_several_networks(models):
    planes = planes_of(picture(move(dx=-70, zoom=0.8), move(zoom=0.5, dx=80)))
    views = np.concatenate([near_views(planes), fine_views(planes)])
    looks = [(models.full, whole_view(planes)), (models.near, views)]
    before = models.full.runs, models.near.runs
    results = [find_all(looks, planes, threads=count) for count in (1, 2, 3)]
    runs = models.full.runs - before[0], models.near.runs - before[1]
    assert runs == (3, 3 * len(views))
    assert len(results[0]) >= 2
    for found in results[1:]:
        assert [one.score for one in found] == [one.score for one in results[0]]
        for one, other in zip(found, results[0], strict=True):
            np.testing.assert_array_equal(one.region, other.region)
    apart = distinct(models.full.find(planes, looks[0][1]) + models.near.find(planes, views))
    assert [one.score for one in apart] == [one.score for one in results[0]]


def test_an_eye_seen_from_near_is_no_second_face(models):
    large = cv2.resize(portrait()[40:200, 150:300], (1000, 1067), interpolation=cv2.INTER_CUBIC)
    (face,) = find_faces(large, models=models)
    assert face.size > 600


def test_anchors_are_as_many_as_the_networks_answers():
    assert len(FULL_RANGE.centres()) == 2304
    assert len(NEAR.centres()) == 896
    np.testing.assert_allclose(FULL_RANGE.centres()[:2], [[2, 2], [6, 2]])
    np.testing.assert_allclose(NEAR.centres()[[0, 1, 512]], [[8, 8], [8, 8], [16, 16]])


def test_one_face_seen_twice_is_one():
    points = np.zeros((6, 2))
    same = [Detection(np.array([50.0 + i, 50, 60, 0]), points, s) for i, s in enumerate((0.7, 0.9))]
    other = Detection(np.array([200.0, 50, 60, 0]), points, 0.6)
    assert [d.score for d in distinct([*same, other])] == [0.9, 0.6]


def test_still_pictures_the_largest_face_first(models):
    head = portrait()[:300, 60:390]
    # The head of the smaller one comes last, so that neither hides the other.
    maps = [np.array([[z, 0, x], [0, z, y]]) for z, x, y in ((0.8, 150, 0), (0.5, 0, 20))]
    faces = find_faces(picture(*maps, of=head, size=(420, 250)), models=models)
    assert len(faces) == 2
    assert faces[0].size > 1.4 * faces[1].size
    assert np.linalg.norm(faces[0].identity - faces[1].identity) < 0.45


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_still_pictures_any_way_up(models, quarter):
    turned = np.rot90(portrait()[:300, 60:390], quarter).copy()
    (face,) = find_faces(turned, models=models)
    roll = np.degrees(face.pose[2]) + 90 * quarter
    assert abs((roll + 180) % 360 - 180) < 12


def test_a_face_that_fills_the_picture(models):
    assert len(find_faces(portrait()[62:188, 172:280].copy(), models=models)) == 1


def test_pictures_keep_their_colours():
    planes = picture_planes(np.full((64, 64, 3), (200, 100, 50), np.uint8))
    (seen,) = rgb_crops(planes, region_matrix([[31.5, 31.5, 32, 0]], 16), 16, high=255.0)
    np.testing.assert_allclose(seen[8, 8], [200, 100, 50], atol=0.01)


def test_pictures_of_the_wrong_kind():
    with pytest.raises(ValueError, match=r"\[H, W, 3\] uint8, got \[4, 4\] float32"):
        find_faces(np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("shrink", [1.5, 2.5, 5.0])
def test_halving_first_shows_the_same_crop(shrink):
    planes = planes_of(np.kron(grey(1), np.ones((2, 2, 1), np.uint8)))
    matrix = region_matrix([300, 200, 64 * shrink, 0.3], 64)
    exact = crop(planes, torch.from_numpy(matrix[None]).float(), 64, layout="NHWC", border="zero")
    part, _ = halved(planes, matrix, 64)
    assert part.c0.numel() < planes.c0.numel() or shrink < 2
    assert part.c1.shape[0] * 2 == part.c0.shape[0]
    halved_first = rgb_crops(planes, matrix[None], 64)
    off = np.abs(halved_first - exact.numpy()).mean()
    # The filters differ by a little; a shift by half a sample of the halved part would show.
    matrix[0, 2] += 2 ** np.floor(np.log2(shrink)) / 2 / shrink
    shifted = crop(planes, torch.from_numpy(matrix[None]).float(), 64, layout="NHWC", border="zero")
    assert off < 0.006
    assert shrink < 2 or off < 0.4 * np.abs(halved_first - shifted.numpy()).mean()
