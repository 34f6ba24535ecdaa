"""The mesh swapper on the one public-domain portrait there is, moved and painted over."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib.resources import files

import cv2
import numpy as np
import pytest
import torch

from accel.faces import mesh, mesh_swap
from accel.faces.crops import picture_planes
from accel.faces.face import Face, lid_openings, make_face, mouth_opening
from accel.faces.find import find_faces
from accel.faces.mask import IRISES, facing, fade, swap_mesh, with_irises
from accel.faces.mesh_swap import SIZES, MeshSwapper
from accel.faces.occlusion import OcclusionModel
from accel.faces.sources import CROSS_FADE, Chooser, prepare_source
from accel.faces.swap import Job, SourceFace, open_swapper
from accel.kernels import paste


def load() -> np.ndarray:  # [H, W, 3] uint8 RGB
    data = np.frombuffer((files("accel") / "assets" / "astronaut.png").read_bytes(), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return cv2.resize(load()[20:240, 110:330], (440, 440), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope="module")
def face(picture) -> Face:
    return find_faces(picture)[0]


@pytest.fixture(scope="module")
def source(picture, face) -> SourceFace:
    return SourceFace(torch.from_numpy(picture).permute(2, 0, 1) / 255, face.landmarks)


def changed(face: Face, landmarks: np.ndarray) -> Face:
    return make_face(
        track=face.track, landmarks=landmarks, raw=landmarks, iris=face.iris, score=1.0,
        identity=face.identity,
    )  # fmt: skip


def in_crop(patch, points) -> np.ndarray:
    """Frame pixels to whole crop pixels (x, y)."""
    matrix = patch.matrix.numpy()
    return np.round(np.asarray(points)[..., :2] @ matrix[:, :2].T + matrix[:, 2]).astype(int)


def at(mask, places) -> np.ndarray:
    x, y = np.moveaxis(places, -1, 0)
    return mask.numpy()[y, x]


def shut_eyes(face: Face) -> Face:
    landmarks = face.landmarks.copy()
    for ring in mesh.EYES:
        for upper, lower in zip(ring[1:8], ring[15:8:-1]):
            landmarks[upper, :2] = landmarks[lower, :2]
    return changed(face, landmarks)


def test_a_face_on_itself_changes_almost_nothing(picture, face, source):
    planes = picture_planes(picture)
    patch = MeshSwapper([[source]]).swap([Job(planes, face, 0)])[0]
    before = torch.stack(planes[:3]).float()
    paste(planes, patch.crop[None], patch.mask[None], patch.matrix[None])
    error = torch.stack(planes[:3]).float() - before
    inside = error.abs().sum(0) > 0
    psnr = 10 * torch.log10(255**2 / error[:, inside].square().mean())
    assert inside.float().mean() > 0.05
    assert psnr > 30


def test_samples_beyond_the_face_are_bit_exact(picture, face, source):
    planes = picture_planes(picture)
    before = planes.clone()
    patch = MeshSwapper([[source]]).swap([Job(planes, face, 0)])[0]
    assert all(torch.equal(a, b) for a, b in zip(planes[:3], before[:3]))  # read only
    paste(planes, patch.crop[None], patch.mask[None], patch.matrix[None])
    hull = cv2.convexHull(face.landmarks[:, :2].round().astype(np.int32))
    outside = cv2.fillConvexPoly(np.zeros(picture.shape[:2], np.uint8), hull, 1)
    outside = torch.from_numpy(cv2.dilate(outside, np.ones((9, 9), np.uint8)))
    for a, b in zip(planes[:3], before[:3]):
        assert torch.equal(a[outside == 0], b[outside == 0])


def test_mask_is_zero_on_the_border_of_the_crop_and_whole_on_the_nose(picture, face, source):
    patch = MeshSwapper([[source]]).swap([Job(picture_planes(picture), face, 0)])[0]
    mask = patch.mask
    for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
        assert not edge.any()
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert at(mask, in_crop(patch, face.landmarks[[1, 4, 50, 280]])).min() > 0.99
    assert patch.crop.shape == (3, *mask.shape)
    assert mask.shape[0] in SIZES


def test_shut_eyes_of_the_target_stay(picture, face, source):
    planes, shut = picture_planes(picture), shut_eyes(face)
    assert shut.lids.max() < 0.1 * face.lids.min()
    middles = [face.landmarks[list(ring)].mean(axis=0) for ring in mesh.EYES]
    opened = MeshSwapper([[source]]).swap([Job(planes, face, 0)])[0]
    closed = MeshSwapper([[source]]).swap([Job(planes, shut, 0)])[0]
    lids = [shut.landmarks[list(ring[2:7])].mean(axis=0) for ring in mesh.EYES]
    assert at(opened.mask, in_crop(opened, middles)).min() > 0.9
    assert at(closed.mask, in_crop(closed, lids)).max() < 0.1


def test_blinking_changes_the_mask_smoothly(picture, face, source):
    planes, swapper = picture_planes(picture), MeshSwapper([[source]], occlusion=False)
    swapper.swap([Job(planes, face, 0)])
    track = next(iter(swapper._tracks.values()))
    shares = []
    for _ in range(4):
        swapper.swap([Job(planes, shut_eyes(face), 0)])
        shares.append(float(track.eyes.max()))
    assert 0.4 < shares[0] < 0.6
    assert shares[3] < 0.1


def test_inside_of_an_open_mouth_stays_the_targets(picture, face, source):
    landmarks = face.landmarks.copy()
    line = (landmarks[13, 1] + landmarks[14, 1]) / 2
    landmarks[landmarks[:, 1] > line, 1] += 0.12 * face.size
    wide = changed(face, landmarks)
    assert wide.mouth > mouth_opening(face.landmarks) + 0.2
    patch = MeshSwapper([[source]]).swap([Job(picture_planes(picture), wide, 0)])[0]
    middle = (landmarks[13] + landmarks[14]) / 2
    assert at(patch.mask, in_crop(patch, middle[None]))[0] < 0.05
    assert at(patch.mask, in_crop(patch, landmarks[[0, 50]])).min() > 0.9


@pytest.mark.parametrize("degrees", [-85, -60, 60, 85])
@pytest.mark.parametrize("axis", ["yaw", "pitch"])
def test_extreme_poses_give_finite_patches_and_fade(picture, face, source, axis, degrees):
    middle, angle = face.landmarks.mean(axis=0), np.deg2rad(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    turn = turn if axis == "yaw" else turn[[1, 0, 2]][:, [1, 0, 2]]
    landmarks = ((face.landmarks - middle) @ turn.T + middle).astype(np.float32)
    turned = changed(face, landmarks)
    patch = MeshSwapper([[source]]).swap([Job(picture_planes(picture), turned, 0)])[0]
    assert patch.crop.isfinite().all()
    assert patch.mask.isfinite().all()
    frontal = MeshSwapper([[source]]).swap([Job(picture_planes(picture), face, 0)])[0]
    scale = [abs(np.linalg.det(p.matrix[:, :2].numpy())) for p in (patch, frontal)]
    assert patch.mask.sum() / scale[0] < 0.8 * frontal.mask.sum() / scale[1]


def test_faces_off_the_frame_and_tiny_faces_do_no_harm(picture, face, source):
    planes = picture_planes(picture)
    away = changed(face, face.landmarks + np.array([380, -300, 0], np.float32))
    tiny = changed(face, face.landmarks * np.float32(0.05))
    for patch in MeshSwapper([[source]]).swap([Job(planes, f, 0) for f in (away, tiny)]):
        assert patch.crop.isfinite().all()
        assert patch.mask.isfinite().all()


def moved(picture, face, shift):
    """Picture and face, moved by `shift` pixels."""
    matrix = np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float64)
    there = cv2.warpAffine(picture, matrix, picture.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    change = np.array([*shift, 0], np.float32)
    return there, replace(face, landmarks=face.landmarks + change, iris=face.iris + change[:2])


def clip(picture, face, count, seed=0):
    random = np.random.default_rng(seed)
    for _ in range(count):
        there, here = moved(picture, face, random.uniform(-6, 6, 2))
        noise = random.normal(0, 2, there.shape)
        yield (there + noise).clip(0, 255).astype(np.uint8), here


def skin_bar(picture, face, where):
    """Lay something of the face's own colour, striped like fingers, over a cheek."""
    x, y = face.landmarks[50, :2].astype(int) + where
    color = np.median(picture[y - 10 : y + 10, x - 10 : x + 10], axis=(0, 1))
    covered = picture.copy()
    covered[y - 25 : y + 90, x - 30 : x + 30] = color * 0.92
    for gap in (-30, -10, 10, 28):
        covered[y - 25 : y + 90, x + gap : x + gap + 3] = color * 0.45
    return covered, np.array([[x, y], [x + 15, y + 20]])


@pytest.mark.parametrize("colored", [False, True], ids=["skin", "green"])
def test_what_comes_before_a_tracked_face_stays_in_front(picture, face, source, colored):
    swapper = MeshSwapper([[source]])
    frames = list(clip(picture, face, 16))
    for there, here in frames[:12]:
        free = swapper.swap([Job(picture_planes(there), here, 0)])[0]
    for there, here in frames[12:]:
        covered, places = skin_bar(there, here, (0, 0))
        if colored:
            x, y = places[0]
            covered[y - 25 : y + 90, x - 30 : x + 30] = (30, 160, 60)
        patch = swapper.swap([Job(picture_planes(covered), here, 0)])[0]
    assert at(free.mask, in_crop(free, frames[11][1].landmarks[[50, 280]])).min() > 0.95
    assert at(patch.mask, in_crop(patch, places)).max() < 0.2
    assert at(patch.mask, in_crop(patch, here.landmarks[[280, 4]])).min() > 0.95
    for there, here in clip(picture, face, 14, seed=1):  # and when it has gone
        patch = swapper.swap([Job(picture_planes(there), here, 0)])[0]
    assert at(patch.mask, in_crop(patch, here.landmarks[[50, 280, 4]])).min() > 0.9


def test_a_face_that_nothing_covers_is_never_thought_hidden(picture, face):
    model, sight = OcclusionModel(), fade(facing(face.landmarks), 0.08, 0.3)
    for i, (there, here) in enumerate(clip(picture, face, 20)):
        light = np.clip(there * (0.9 + 0.15 * np.sin(i / 4)), 0, 255)  # as clouds pass
        target = torch.from_numpy(light / 255).permute(2, 0, 1)[None].float().contiguous()
        hidden = model.hidden(target, here.landmarks, sight)
        assert hidden is None or hidden.max() < 0.3


def test_an_occluder_of_another_color_is_seen_in_the_first_frame(picture, face):
    covered = picture.copy()
    x, y = face.landmarks[280, :2].astype(int)
    covered[y - 30 : y + 80, x - 25 : x + 25] = (20, 60, 170)
    target = torch.from_numpy(covered / 255).permute(2, 0, 1)[None].float().contiguous()
    model, sight = OcclusionModel(), fade(facing(face.landmarks), 0.08, 0.3)
    for _ in range(3):
        hidden = model.hidden(target, face.landmarks, sight)
    assert hidden is not None
    assert hidden[0, y, x] > 0.8
    assert hidden[0, int(face.landmarks[50, 1]), int(face.landmarks[50, 0])] < 0.1


def test_jobs_in_one_call_give_what_single_calls_give(picture, face, source):
    jobs = [Job(picture_planes(there), here, 0) for there, here in clip(picture, face, 3)]
    jobs += [Job(job.planes, replace(job.face, track=face.track + 1), 0) for job in jobs]
    together = MeshSwapper([[source]]).swap(jobs)
    alone = MeshSwapper([[source]])
    for job, patch in zip(jobs, together):
        single = alone.swap([job])[0]
        assert torch.equal(single.crop, patch.crop)
        assert torch.equal(single.mask, patch.mask)


def test_size_of_the_crop_has_hysteresis(picture, face, source):
    planes, swapper, sizes = picture_planes(picture), MeshSwapper([[source]], occlusion=False), []
    first = swapper.swap([Job(planes, face, 0)])[0].mask.shape[0]
    for scale in (0.98, 0.95, 0.98, 0.95):
        smaller = changed(face, (face.landmarks * scale).astype(np.float32))
        sizes.append(swapper.swap([Job(planes, smaller, 0)])[0].mask.shape[0])
    assert sizes == [first] * 4
    half = changed(face, (face.landmarks * 0.4).astype(np.float32))
    assert swapper.swap([Job(planes, half, 0)])[0].mask.shape[0] < first


def test_a_face_larger_than_the_crop_keeps_the_frames_own_detail(
    picture, face, source, monkeypatch
):
    large = cv2.resize(picture, None, fx=3, fy=3, interpolation=cv2.INTER_CUBIC)
    large = np.clip(large + np.random.default_rng(0).normal(0, 12, large.shape), 0, 255)
    near = changed(face, face.landmarks * np.float32(3) + np.array([1, 1, 0], np.float32))
    fine = []
    for coarse in (0.0, mesh_swap.COARSE):
        monkeypatch.setattr(mesh_swap, "COARSE", coarse)
        planes = picture_planes(large.astype(np.uint8))
        patch = MeshSwapper([[source]], max_crop_px=192).swap([Job(planes, near, 0)])[0]
        assert patch.mask.shape == (192, 192)
        paste(planes, patch.crop[None], patch.mask[None], patch.matrix[None])
        fine.append(cv2.Laplacian(planes.c0.numpy().astype(np.float32), cv2.CV_32F))
    lost = np.abs(fine[1]) > 4 * np.abs(fine[0]) + 20
    assert lost.mean() > 0.003  # of the picture: the soft edge, where noise would have gone


def test_a_cut_forgets_the_scene_before(picture, face, source):
    planes, swapper = picture_planes(picture), MeshSwapper([[source]])
    for _ in range(3):
        swapper.swap([Job(planes, face, 0)])
    after = swapper.swap([Job(planes, replace(face, scene=1), 0)])[0]
    fresh = MeshSwapper([[source]]).swap([Job(planes, face, 0)])[0]
    assert torch.equal(after.crop, fresh.crop)
    assert len(swapper._tracks) == 1


def test_the_best_source_is_chosen_and_kept(face):
    picture = torch.full((3, 440, 440), 0.5)
    shut, sources = shut_eyes(face), []
    for landmarks in (face.landmarks, shut.landmarks):
        sources.append(prepare_source(picture, landmarks, face.iris))
    chooser = Chooser(sources)
    assert chooser.choose(face.landmarks) == [(0, 1.0)]
    between = (0.52 * shut.landmarks + 0.48 * face.landmarks).astype(np.float32)
    for _ in range(10):
        assert chooser.choose(between)[0][0] == 0  # hardly better: it stays
    shares = [dict(chooser.choose(shut.landmarks)) for _ in range(CROSS_FADE + 1)]
    assert [set(s) for s in shares[:CROSS_FADE]] == [{0, 1}] * CROSS_FADE
    assert all(abs(sum(s.values()) - 1) < 1e-6 for s in shares)
    assert [s[1] for s in shares] == sorted(s[1] for s in shares)
    assert shares[-1] == {1: 1.0}


def test_two_sources_are_swapped_with_a_cross_fade(picture, face, source):
    darker = SourceFace(source.picture * 0.5, shut_eyes(face).landmarks)
    swapper, planes = MeshSwapper([[source, darker]], occlusion=False), picture_planes(picture)
    for target in [face] * 8 + [shut_eyes(face)] * 10:
        patch = swapper.swap([Job(planes, target, 0)])[0]
        assert patch.crop.isfinite().all()
    assert next(iter(swapper._tracks.values())).chooser._current == 1


def test_a_fringe_of_the_source_is_painted_over(picture, face, source):
    fringed = source.picture.clone()
    top = face.landmarks[[105, 334, 66, 296], 1].min()
    row = int(top - 0.04 * face.size)
    fringed[:, :row] = torch.tensor([0.02, 0.05, 0.12])[:, None, None]
    prepared = prepare_source(fringed, face.landmarks, face.iris).original
    forehead = (prepared.points[108] + prepared.points[337]) / 2
    x, y = forehead.astype(int)
    skin = prepared.picture[0, :, int(prepared.points[4][1]), int(prepared.points[4][0])]
    assert (prepared.picture[0, :, y, x] - skin).abs().max() < 0.35
    assert prepared.picture[0, 0, y, x] > 0.4


def test_irises_are_kept_between_the_lids(face):
    points = with_irises(face.landmarks, face.iris)
    assert points.shape == (474, 3)
    np.testing.assert_allclose(points[[IRISES + 1, IRISES + 4], :2], face.iris[:, 0], atol=3)
    wild = with_irises(face.landmarks, np.full((2, 5, 2), 1e4, np.float32))
    unknown = with_irises(face.landmarks, np.full((2, 5, 2), np.nan, np.float32))
    for found in (wild, unknown):
        for eye, ring in enumerate(mesh.EYES):
            inside = found[IRISES + 3 * eye : IRISES + 3 * eye + 3, 0]
            corners = np.sort(face.landmarks[[ring[0], ring[8]], 0])
            assert ((inside > corners[0]) & (inside < corners[1])).all()


def test_the_mesh_has_no_holes_and_keeps_its_winding(face):
    parts = swap_mesh()
    points = with_irises(face.landmarks, face.iris)[parts.vertex]
    corners = points[parts.triangles][:, :, :2]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum()
    plain = face.landmarks[mesh.TRIANGLES][:, :, :2]
    a, b = plain[:, 1] - plain[:, 0], plain[:, 2] - plain[:, 0]
    assert area == pytest.approx(np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum(), rel=1e-3)
    assert parts.base.min() == 0
    assert parts.base.max() == 1
    assert not parts.base[list(mesh.OVAL)].any()


def test_the_registry_opens_it_and_refuses_no_sources(source):
    assert open_swapper("mesh", [[source]]).name == "mesh"
    with pytest.raises(ValueError, match="at least one source picture"):
        MeshSwapper([[]])
    with pytest.raises(ValueError, match="max_crop_px must be at least"):
        MeshSwapper([[source]], max_crop_px=8)


def test_a_face_seen_twice_gives_the_same_patch(picture, face, source):
    jobs = [Job(picture_planes(there), here, 0) for there, here in clip(picture, face, 2)]
    one, two = (MeshSwapper([[source]]).swap(copy.copy(jobs)) for _ in range(2))
    assert all(torch.equal(a.crop, b.crop) for a, b in zip(one, two))


def test_lid_openings_are_those_the_eyes_are_judged_by(face):
    np.testing.assert_allclose(face.lids, lid_openings(face.landmarks), rtol=1e-5)
