"""Frames the mesh network does not look at: placed where motion is even, looked at where not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from accel.core import ConfigError
from accel.faces import between, cut
from accel.faces.align import compose, invert, transform
from accel.faces.between import Sparse, patch, quick, unlike
from accel.faces.landmark import face_region
from accel.faces.track import Analyser
from tests.faces.film import film, move, picture, planes_of

needs_native = pytest.mark.skipif(between.native is None, reason="needs the native module")


def sparse(models, stride=2, **settings):
    settings = {"lookahead": 6, "redetect_every": 6, "iris_every": 0} | settings
    return Sparse(Analyser(models=models, smoothing=False, **settings), stride)


def run(models, frames, stride=2):
    by = sparse(models, stride)
    return by, [(index, faces) for index, _, faces in by.analyse(frames)]


def drifting(count=24):
    return [move(dx=40 * np.sin(i / 7), dy=0.4 * i, turn=0.5 * i, zoom=1 + i / 200)
            for i in range(count)]  # fmt: skip


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_every_frame_comes_back_once_and_in_order(models, stride, count):
    frames = film(*[picture(m) for m in drifting(count)])
    _, found = run(models, frames, stride)
    assert [index for index, _ in found] == list(range(count))
    assert all(len(faces) == 1 for _, faces in found)


def test_placed_faces_lie_where_the_portrait_was_moved(models, astronaut):
    maps = drifting()
    by, found = run(models, film(*[picture(m) for m in maps]))
    assert by.placed >= 8
    for (_, (face,)), matrix in zip(found, maps):
        truth = transform(matrix, astronaut[:, :2])
        apart = np.linalg.norm(face.landmarks[:, :2] - truth, axis=1).mean()
        assert apart < 0.02 * face.size


def test_placed_frames_are_as_exact_as_the_others(models, astronaut):
    maps = drifting()
    _, found = run(models, film(*[picture(m) for m in maps]))
    errors = [
        np.linalg.norm(faces[0].landmarks[:, :2] - transform(m, astronaut[:, :2]), axis=1).mean()
        for (_, faces), m in zip(found, maps)
    ]
    assert np.mean(errors[3:-3:2]) < 1.25 * np.mean(errors[2:-3:2])


def test_a_jerk_between_two_looks_is_seen(models, astronaut):
    # The one frame that lies elsewhere is none that is looked at anyway.
    maps = [move() for _ in range(13)]
    maps[7] = move(dx=14, turn=8)
    by, found = run(models, film(*[picture(m) for m in maps]))
    truth = transform(maps[7], astronaut[:, :2])
    assert by.measured >= 1
    raw = found[7][1][0].raw[:, :2]
    assert np.linalg.norm(raw - truth, axis=1).mean() < 0.02 * found[7][1][0].size


def test_a_hand_in_front_for_one_frame_is_looked_at(models):
    frames = [picture(move()) for _ in range(13)]
    cv2.rectangle(frames[5], (120, 90), (200, 135), (140, 110, 90), -1)
    by, _ = run(models, film(*frames))
    assert by.measured >= 1


def test_a_still_face_is_looked_at_every_other_frame_only(models):
    by, _ = run(models, film(*[picture(move()) for _ in range(13)]))
    assert (by.placed, by.measured) == (6, 0)


def test_a_face_that_leaves_at_a_cut_is_not_carried_over(models):
    empty = picture(move(dx=2000))
    frames = film(*[picture(move()) for _ in range(7)], *[empty] * 6)
    _, found = run(models, frames)
    assert [len(faces) for _, faces in found] == [1] * 7 + [0] * 6


def test_two_people_keep_their_numbers(models):
    maps = [(move(dx=-80 + i, zoom=0.7), move(dx=80 - i, zoom=0.7)) for i in range(13)]
    _, found = run(models, film(*[picture(*pair) for pair in maps]))
    left = {min(faces, key=lambda f: f.box[0]).track for _, faces in found}
    right = {max(faces, key=lambda f: f.box[0]).track for _, faces in found}
    assert (len(left), len(right)) == (1, 1)
    assert left != right


def test_patches_of_one_face_are_alike_wherever_it_lies(astronaut):
    one, two = move(), move(dx=30, turn=10, zoom=1.2)
    patches = [
        patch(planes_of(picture(m)), np.c_[transform(m, astronaut[:, :2]), astronaut[:, 2]])
        for m in (one, two)
    ]
    assert unlike(*patches) < 0.03
    away = compose(two, invert(compose(move(dx=10), invert(move()))))
    moved = np.c_[transform(away, astronaut[:, :2]), astronaut[:, 2]]
    assert unlike(patches[0], patch(planes_of(picture(two)), moved)) > 0.05


@needs_native
def test_native_code_gives_the_same_patches(astronaut, monkeypatch):
    for turn, zoom in ((0, 0.3), (20, 1.0), (-70, 2.3)):
        m = move(dx=120, turn=turn, zoom=zoom)  # the largest reaches over the border
        points = np.c_[transform(m, astronaut[:, :2]), astronaut[:, 2]]
        planes = planes_of(picture(m))
        ours = patch(planes, points)
        with monkeypatch.context() as without:
            without.setattr(cut, "native", None)
            expected = patch(planes, points)
        # OpenCV places samples in 32nds of a pixel.
        assert np.abs(ours - expected).mean() < 0.003
        assert np.abs(ours - expected).max() < 0.08


@needs_native
def test_native_code_finds_the_same_difference(monkeypatch):
    rng = np.random.default_rng(1)
    one, other, later = rng.random((3, 48, 48), np.float32)
    ours = [unlike(one, other), unlike(one, other, later, 0.3)]
    assert ours[0] != ours[1]
    monkeypatch.setattr(between, "native", None)
    expected = [unlike(one, other), unlike(one, other + np.float32(0.3) * (later - other))]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert unlike(one, other, later, 0.3) == pytest.approx(expected[1], abs=1e-6)


def test_light_that_changes_alike_everywhere_does_not_count():
    rng = np.random.default_rng(0)
    one = rng.random((48, 48), np.float32)
    assert unlike(one, one + 0.3) < 1e-6
    other = one.copy()
    other[8:16, 8:16] += 0.4
    assert unlike(one, other) > 0.3


def test_settings_that_cannot_work(models):
    with pytest.raises(ConfigError, match="stride must be at least 1"):
        sparse(models, 0)
    with pytest.raises(ConfigError, match="smoothing=False"):
        Sparse(Analyser(models=models), 2)


def test_the_quick_mesh_sees_what_the_other_sees(models, astronaut):
    frame = planes_of(picture(move(turn=12, dx=9)))
    region = face_region(np.c_[transform(move(turn=12, dx=9), astronaut[:, :2]), astronaut[:, 2]])
    fast = quick(models)
    (one, sure), (other, also) = (m.measure([frame], [region])[0] for m in (models, fast))
    side = np.ptp(one[:, 0])
    assert np.linalg.norm(one - other, axis=1).max() < 0.01 * side
    assert abs(sure - also) < 0.01
    assert fast.mesh is not models.mesh


@pytest.mark.parametrize(("zoom", "speed"), [(0.55, 10), (0.7, 16)])
def test_a_face_that_starts_to_run_is_there_once_until_it_is_gone(models, zoom, speed):
    """Frames beside the last look at it were searched where it had been, or gave it twice."""
    maps = [move(zoom=zoom, dx=-100 + speed * max(i - 12, 0)) for i in range(17)]
    frames = [picture(m) for m in maps] + [picture() for _ in range(10)]
    by = sparse(models, 3, lookahead=8, redetect_every=8, sure_after=2, identities=False)
    found = [len(faces) for _, _, faces in by.analyse(film(*frames))]
    assert found == [1] * 17 + [0] * 10
