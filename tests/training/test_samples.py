"""What a step is given: which face when, how it is bent, cut and masked."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest
import torch

from accel.core import InputError
from accel.faces.face_types import FaceType
from accel.faces.faceset import FaceRecord, Polygon, with_face
from accel.faces.faceset_pak import pack_folder
from accel.training.augment import CELLS, GRID, Augment, Sampler, bent_grid, variation
from accel.training.autoencoder import Batches, batch_of
from accel.training.faces import Shuffled, UniformYaw, load_faces, prepare_face
from accel.training.options import DEFAULTS, TrainOptions, with_given
from tests.training.facesets import face_file, faceset, landmarks

SIDES = ("src", "dst")


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return load_faces(faceset(tmp_path_factory.mktemp("set") / "aligned"), 96, FaceType.FULL)


def test_every_face_comes_once_a_round_in_another_order():
    choose = Shuffled(10, (1, 2))
    rounds = [[choose(r * 10 + i) for i in range(10)] for r in range(3)]
    assert all(sorted(order) == list(range(10)) for order in rounds)
    assert len({tuple(order) for order in rounds}) == 3
    assert choose(13) == Shuffled(10, (1, 2))(13)


def test_uniform_yaw_shows_rare_directions_as_often():
    yaws = [0.0] * 90 + [0.9] * 10
    seen = Counter(UniformYaw(yaws, (0,))(draw) >= 90 for draw in range(200))
    assert seen == {True: 100, False: 100}
    shown = {UniformYaw(yaws, (0,))(draw) for draw in range(200)}
    assert len(shown) == 100  # each of its direction in turn


def test_every_third_step_sees_the_last_batch_again():
    assert [batch_of(step) for step in range(8)] == [
        (0, False), (1, False), (2, False), (2, True),
        (3, False), (4, False), (4, True), (5, False),
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [1, 4])
def test_batches_do_not_depend_on_threads_or_where_they_begin(faces, workers):
    options = TrainOptions(batch=2)
    batches = Batches(options, faces, faces, 2, workers=workers, ahead=3)
    try:
        for step in range(2, 6):
            for side, again in zip(next(batches), batches.at(step)):
                assert torch.equal(side.warped, again.warped)
                assert torch.equal(side.mask, again.mask)
                plain = torch.equal(side.warped, side.target)
                assert plain == (step % 3 == 0)
    finally:
        batches.close()


@pytest.mark.parametrize("mirrored", ["src", "dst"])
def test_each_persons_faces_are_mirrored_by_their_own_option(faces, mirrored):
    never = with_given(DEFAULTS["saehd"], {"batch": 8, "flip_dst": False})
    plain, some = (
        Batches(options, faces, faces, 0)
        for options in (never, with_given(never, {"flip_src": False, f"flip_{mirrored}": True}))
    )
    same = {s: torch.equal(a.target, b.target) for s, a, b in zip(SIDES, plain.at(0), some.at(0))}
    assert same == {side: side != mirrored for side in SIDES}


def test_a_sample_is_one_face_bent_and_not(faces):
    side = Sampler(faces, 4, Augment(), 0, 0)(0)
    assert side.warped.shape == side.target.shape == (4, 3, 96, 96)
    assert side.mask.shape == side.details.shape == (4, 1, 96, 96)
    assert 0 <= side.warped.min() <= side.warped.max() <= 1
    apart = (side.warped - side.target).abs().mean()
    assert 0.005 < apart < 0.2
    inside = (side.target * side.mask).sum((2, 3)) / side.mask.sum((2, 3))
    outside = (side.target * (1 - side.mask)).sum((2, 3)) / (1 - side.mask).sum((2, 3))
    assert (inside - outside).abs().mean() > 0.1  # the mask is where the face is
    assert (side.details <= side.mask + 0.05).float().mean() > 0.99


@pytest.mark.parametrize("cells", CELLS)
def test_grids_are_bent_no_further_than_deepfacelab_bends_them(cells):
    size, moved = 96, []
    straight = np.stack(np.meshgrid(*[np.linspace(0, size, cells + 1)] * 2))
    step = (GRID - 1) // cells
    for seed in range(50):
        grid = bent_grid(np.random.default_rng(seed), size, cells)
        assert grid.shape == (2, GRID, GRID)
        edge = np.linspace(0, size, GRID)
        np.testing.assert_allclose(grid[0, 0], edge, atol=1e-4)
        np.testing.assert_allclose(grid[1, :, -1], edge, atol=1e-4)
        moved.append((grid[:, ::step, ::step] - straight)[:, 1:-1, 1:-1])
    limit = 0.24 * size / cells
    assert np.abs(moved).max() <= limit + 1e-4
    # A normal of one deviation cut off at 2.5 and divided by 2.5 has a deviation of 0.38.
    assert np.std(moved) == pytest.approx(0.385 * limit, rel=0.25)


def test_matrices_turn_scale_and_shift_within_their_ranges():
    matrices = [variation(np.random.default_rng(s), 96, Augment())[1] for s in range(300)]
    turn = np.degrees([np.arctan2(m[1, 0], m[0, 0]) for m in matrices])
    scale = np.array([1 / np.hypot(m[0, 0], m[1, 0]) for m in matrices])
    assert 9 < np.abs(turn).max() <= 10
    assert 1 / 1.05 <= scale.min() < 0.96
    assert 1.04 < scale.max() <= 1.05 + 1e-6
    centre = np.array([m @ [48, 48, 1] for m in matrices]) - 48
    assert 0.04 * 96 < np.abs(centre).max() < 0.075 * 96
    assert all(np.linalg.det(m[:, :2]) > 0 for m in matrices)
    mirrored = [
        np.linalg.det(variation(np.random.default_rng(s), 96, Augment(flip=True))[1][:, :2]) < 0
        for s in range(300)
    ]
    assert np.mean(mirrored) == pytest.approx(0.4, abs=0.08)


def test_a_larger_type_is_cut_to_the_models(tmp_path):
    whole = prepare_face(face_file(256, FaceType.WHOLE), "whole", 96, FaceType.FULL)
    full = prepare_face(face_file(256, FaceType.FULL), "full", 96, FaceType.FULL)
    overlap = np.minimum(whole.mask, full.mask).sum() / np.maximum(whole.mask, full.mask).sum()
    assert overlap > 0.93
    # The same face: drawn at another scale and cut back it is nearly the same picture.
    apart = np.abs(
        cv2.GaussianBlur(whole.picture, (0, 0), 2).astype(float)
        - cv2.GaussianBlur(full.picture, (0, 0), 2)
    )
    assert apart[full.mask[..., 0] > 0].mean() < 12


def test_polygons_and_drawn_masks_come_before_the_outline():
    square = np.array([[10, 10], [20, 10], [20, 20], [10, 20]], np.float32)
    drawn = prepare_face(
        face_file(polygons=[Polygon(True, square), Polygon(False, square + 25)]), "a", 64,
        FaceType.FULL,
    )  # fmt: skip
    assert drawn.mask[15, 15, 0] == 255
    assert drawn.mask[40, 40, 0] == 0
    half = np.zeros((32, 32), np.uint8)
    half[:, :16] = 255
    png = cv2.imencode(".png", half)[1].tobytes()
    masked = prepare_face(face_file(xseg_mask=png), "a", 64, FaceType.FULL)
    assert (masked.mask[:, :31] == 255).all()
    assert (masked.mask[:, 33:] == 0).all()


def test_polygons_that_surround_nothing_or_reach_far_are_no_hindrance():
    plain = prepare_face(face_file(), "a", 64, FaceType.FULL)
    begun = [Polygon(True, np.zeros((n, 2), np.float32)) for n in range(3)]
    assert (
        prepare_face(face_file(polygons=begun), "a", 64, FaceType.FULL).mask == plain.mask
    ).all()
    corners = np.array([[-1e9, -1e9], [1e9, -1e9], [1e9, 1e9], [-1e9, 1e9]], np.float32)
    far = prepare_face(face_file(polygons=[Polygon(True, corners)]), "a", 64, FaceType.FULL)
    assert (far.mask == 255).all()


def test_landmarks_that_are_one_point_are_told():
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    head = with_face(jpeg, FaceRecord(face_type=FaceType.HEAD, landmarks=np.full((68, 2), 9.0)))
    with pytest.raises(InputError, match="must be those of a face, got one point"):
        prepare_face(head, "a", 64, FaceType.FULL)


def test_yaw_tells_left_from_right():
    left, right = (prepare_face(_turned(yaw), "a", 64, FaceType.FULL).yaw for yaw in (-0.5, 0.5))
    assert left * right < 0
    assert abs(left) == pytest.approx(0.5, abs=0.15)


def _turned(yaw):
    jpeg = cv2.imencode(".jpg", np.zeros((64, 64, 3), np.uint8))[1].tobytes()
    return with_face(jpeg, FaceRecord(face_type=FaceType.FULL, landmarks=landmarks(yaw=yaw)))


def test_a_pak_holds_the_same_faces(tmp_path):
    folder = faceset(tmp_path / "a" / "aligned", 4)
    loose = load_faces(folder, 64, FaceType.FULL)
    pack_folder(folder)
    for path in folder.glob("*.jpg"):
        path.unlink()
    packed = load_faces(folder, 64, FaceType.FULL)
    for a, b in zip(loose.faces, packed.faces, strict=True):
        np.testing.assert_array_equal(a.picture, b.picture)
        np.testing.assert_array_equal(a.mask, b.mask)


def test_a_truncated_jpeg_is_no_picture():
    data = face_file(128)
    for share in (0.5, 0.8, 0.99):
        with pytest.raises(InputError, match=r"cut short|damaged"):
            prepare_face(data[: int(len(data) * share)], "a", 64, FaceType.FULL)


def test_pictures_of_any_size_may_be_mixed(tmp_path):
    folder = tmp_path / "aligned"
    folder.mkdir()
    for size in (48, 64, 300):
        (folder / f"{size}.jpg").write_bytes(face_file(size))
    found = load_faces(folder, 64, FaceType.FULL)
    assert {face.picture.shape for face in found.faces} == {(64, 64, 3)}
    assert not found.bad


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ((100, 100), "landmarks must fit the picture of 100 pixels, got those of one of 256"),
        ((512, 512), "landmarks must fit the picture of 512 pixels, got those of one of 256"),
        ((200, 300), "an aligned face must be square, got 300x200"),
    ],
)
def test_a_picture_that_was_resized_after_its_landmarks_were_written_is_refused(shape, why):
    record = FaceRecord(face_type=FaceType.FULL, landmarks=landmarks(256))
    good, jpeg = cv2.imencode(".jpg", np.full((*shape, 3), 90, np.uint8))
    assert good
    with pytest.raises(InputError, match=why):
        prepare_face(with_face(jpeg.tobytes(), record), "a.jpg", 64, FaceType.FULL)
