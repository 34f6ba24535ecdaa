"""Each way of sorting on faces whose place in the order is known."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.faces import mesh
from accel.faces.align import transform
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.faceset import FaceRecord, with_face
from accel.faces.sort import (
    MODES,
    Measured,
    arrange,
    aside_of,
    contact_sheet,
    histogram_distance,
    measure,
    measure_all,
    measure_picture,
    order,
    pose_of,
    recover,
)
from tests.faces.film import portrait

PX = 96


def turned(yaw=0.0, pitch=0.0, roll=0.0):
    """68 points of the canonical head turned, in a frame."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array(
        [[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    )
    points = mesh.to_68(mesh.CANONICAL).astype(np.float64) @ (about_z @ about_y @ about_x).T
    return points[:, :2] * [8, -8] + 150


def record(points=None, **changes):
    points = turned() if points is None else points
    matrix = crop_matrix(points, FaceType.WHOLE, PX)
    values = {"landmarks": transform(matrix, points), "source_filename": "a.png", "matrix": matrix}
    return FaceRecord(face_type=FaceType.WHOLE, **(values | changes))


def noise(seed=0, low=40, high=200):
    return np.random.default_rng(seed).integers(low, high, (PX, PX, 3)).astype(np.uint8)


def look(picture=None, name="a.jpg", **changes):
    return measure_picture(Path(name), record(**changes), noise() if picture is None else picture)


def kept(faces, by, **more):
    return order(faces, by, **more).kept


@pytest.mark.parametrize("yaw", [-0.9, -0.3, 0.0, 0.5])
@pytest.mark.parametrize("pitch", [-0.4, 0.0, 0.3])
@pytest.mark.parametrize("roll", [0.0, 0.6])
def test_pose_of_a_turned_head(yaw, pitch, roll):
    # Turned about its own x axis first, the nose points to (sin yaw cos pitch, sin pitch, ...).
    nose = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    found = pose_of(turned(yaw, pitch, roll))
    # Measured against the eyes' line, as `Face.pose` is; a head that nods while turned rolls.
    tilt = 0.35 * abs(yaw * pitch) + 1e-3
    np.testing.assert_allclose(found, [np.arctan2(nose[0], nose[2]), pitch], atol=tilt)


def test_names_are_the_fifteen():
    assert list(MODES) == [
        "blur", "motion-blur", "face-yaw", "face-pitch", "face-source-rect-size", "hist",
        "hist-dissim", "brightness", "hue", "black", "origname", "oneface", "absdiff", "final",
        "final-fast",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="sort: must be by one of blur"):
        order([look()], "beauty")
    with pytest.raises(ConfigError, match="target"):
        order([look()], "final", target=0)
    assert all(order([], by).kept == [] for by in MODES)


@pytest.mark.parametrize("by", MODES)
def test_every_face_is_kept_or_thrown_away_once(by):
    faces = [
        look(noise(i), source_filename=f"{i // 2}.png", points=turned(i / 9)) for i in range(7)
    ]
    done = order(faces, by, target=4)
    assert sorted(done.kept + done.trash) == list(range(7))
    if by.startswith("final"):
        assert len(done.kept) == 4


def test_blur_puts_sharp_faces_first():
    shades = [cv2.GaussianBlur(noise(), (0, 0), s) if s else noise() for s in (2, 0, 5, 1)]
    assert kept([look(p) for p in shades], "blur") == [1, 3, 0, 2]


def test_motion_blur_finds_what_is_smeared_one_way():
    smeared = cv2.blur(noise(), (9, 1))
    round_blur = cv2.GaussianBlur(noise(), (0, 0), 0.8)
    faces = [look(p) for p in (smeared, noise(), round_blur, cv2.blur(noise(), (1, 15)))]
    assert kept(faces, "motion-blur")[:2] == [1, 2]


def test_sharpness_counts_on_the_face_alone():
    flat = np.full((PX, PX, 3), 128, np.uint8)
    framed = flat.copy()
    framed[:, :6] = noise()[:, :6]  # far from the hull
    assert look(framed).sharpness == look(flat).sharpness == 0


def test_turned_faces():
    faces = [look(points=turned(yaw=y)) for y in (0.1, -0.8, 0.7)]
    assert kept(faces, "face-yaw") == [2, 0, 1]
    faces = [look(points=turned(pitch=p)) for p in (0.1, -0.4, 0.3)]
    assert kept(faces, "face-pitch") == [2, 0, 1]


def test_size_in_the_frame():
    faces = [look(source_rect=(0, 0, s, s)) for s in (50, 10, 90)]
    assert kept(faces, "face-source-rect-size") == [2, 0, 1]
    without = [look(points=turned() * s) for s in (1, 3)]  # known by the matrix alone
    assert kept(without, "face-source-rect-size") == [1, 0]


def test_colours():
    plain = [
        np.full((PX, PX, 3), c, np.uint8) for c in ((30, 30, 30), (200, 200, 200), (90, 90, 90))
    ]
    assert kept([look(p) for p in plain], "brightness") == [1, 2, 0]
    hues = [np.full((PX, PX, 3), c, np.uint8) for c in ((0, 0, 255), (255, 0, 0), (0, 255, 0))]
    assert kept([look(p) for p in hues], "hue") == [1, 2, 0]
    holes = []
    for rows in (20, 0, 50):
        picture = noise()
        picture[:rows] = 0
        holes.append(look(picture))
    assert [f.black for f in holes] == [20 * PX, 0, 50 * PX]
    assert kept(holes, "black") == [1, 0, 2]


def test_like_follows_like():
    levels = (40, 120, 50, 130, 200)
    faces = [look(cv2.GaussianBlur(noise(i, v, v + 30), (0, 0), 1)) for i, v in enumerate(levels)]
    assert kept(faces, "hist") in ([0, 2, 1, 3, 4], [0, 2, 3, 1, 4])
    assert kept(faces, "absdiff") == [0, 2, 1, 3, 4]


def test_the_odd_one_comes_first():
    faces = [look(noise(i)) for i in range(4)] + [look(noise(9, 200, 250))]
    assert kept(faces, "hist-dissim")[0] == 4


def test_histogram_distance_is_opencvs():
    one, two = (cv2.GaussianBlur(noise(i, 30 * i, 220), (0, 0), 1) for i in range(2))
    a, b = look(one), look(two)
    wanted = sum(
        cv2.compareHist(
            *(cv2.calcHist([p], [c], None, [64], [0, 256]) for p in (one, two)),
            cv2.HISTCMP_BHATTACHARYYA,
        )
        for c in range(3)
    )
    assert histogram_distance(a.histogram, b.histogram[None])[0] == pytest.approx(wanted, abs=1e-4)


def test_names_and_crowds():
    names = [("b.png", "3.jpg"), ("a.png", "2.jpg"), ("b.png", "1.jpg"), ("c.png", "0.jpg")]
    faces = [look(source_filename=source, name=name) for source, name in names]
    assert kept(faces, "origname") == [1, 2, 0, 3]
    done = order(faces, "oneface")
    assert (done.kept, sorted(done.trash)) == ([1, 3], [0, 2])


def made_up(yaw=0.0, pitch=0.0, sharpness=1.0, area=1.0, seed=0):
    share = np.random.default_rng(seed).random((3, 64))
    roots = np.sqrt(share / share.sum(1, keepdims=True)).astype(np.float32)
    return Measured(
        Path("x"), "x", sharpness, 0, yaw, pitch, area, 0, 0, 0, roots, np.zeros(3, np.float32)
    )


def test_final_looks_everywhere_and_sharply():
    make = np.random.default_rng(0)
    front = [made_up(0.0, 0.0, s, 1, i) for i, s in enumerate(make.random(600))]
    sides = [made_up(y, 0.1, 0.01, 1, 7) for y in np.linspace(-1.1, 1.1, 40)]
    done = order(front + sides, "final", target=100)
    assert len(done.kept) == 100
    chosen = [(front + sides)[i] for i in done.kept]
    assert sum(f.yaw != 0 for f in chosen) >= 38  # every rare view stays
    sharp = [f.sharpness for f in chosen if f.yaw == 0]
    assert min(sharp) >= np.sort([f.sharpness for f in front])[-len(sharp)]  # the sharpest of many
    yaws = [round(f.yaw, 1) for f in chosen]
    assert yaws[0] < 0 < yaws[-1]


def test_final_fast_prefers_large_faces():
    faces = [made_up(area=a, sharpness=-a, seed=int(a)) for a in range(1, 40)]
    areas = [faces[i].source_area for i in order(faces, "final-fast", target=5).kept]
    assert min(areas) > 25


def test_final_keeps_all_of_a_small_set():
    faces = [made_up(y, seed=i) for i, y in enumerate(np.linspace(-1, 1, 9))]
    assert order(faces, "final").trash == []


# --- files --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    aligned = tmp_path / "aligned"
    aligned.mkdir()
    for i in range(5):
        jpeg = cv2.imencode(".jpg", cv2.GaussianBlur(noise(i), (0, 0), 0.5 + i))[1].tobytes()
        (aligned / f"{i}_0.jpg").write_bytes(with_face(jpeg, record(source_filename=f"{i}.png")))
    return aligned


def test_a_folder_is_sorted(folder):
    paths = sorted(folder.iterdir())
    contents = [p.read_bytes() for p in paths]
    (folder / "bad.jpg").write_bytes(b"\xff\xd8 no picture")
    seen = []
    good, bad = measure_all([*paths, folder / "bad.jpg"], threads=2, progress=seen.append)
    assert [g.path for g in good] == paths
    assert len(bad) == 1
    assert "cut short" in bad[0][1]
    assert seen[-1].done == seen[-1].total == 6
    done = order(good, "blur")
    trash = arrange(folder, [good[i].path for i in reversed(done.kept)], [p for p, _ in bad])
    assert [p.name for p in sorted(folder.iterdir())] == [f"{i:05d}.jpg" for i in range(5)]
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == contents[::-1]
    assert [p.name for p in trash.iterdir()] == ["bad.jpg"]
    assert trash.name == "aligned_trash"


def test_a_broken_off_sort_loses_nothing(folder, monkeypatch):
    paths = sorted(folder.iterdir())
    contents = sorted(p.read_bytes() for p in paths)
    real, turns = Path.rename, []

    def fail(self, target):
        turns.append(target)
        if len(turns) == 4:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", fail)
    moved = {}
    with pytest.raises(KeyboardInterrupt):
        arrange(folder, paths, [], moved)
    monkeypatch.undo()
    assert sorted(p.read_bytes() for p in folder.iterdir()) == contents
    assert set(moved.values()) < set(folder.iterdir())
    assert not aside_of(folder).exists()
    assert recover(folder) == 0
    arrange(folder, sorted(folder.iterdir()), [])
    assert sorted(p.read_bytes() for p in folder.iterdir()) == contents


def test_a_huge_face_is_measured_in_fewer_pixels(tmp_path, monkeypatch):
    """Four of 8192 pixels a side took 3 GB."""
    monkeypatch.setattr("accel.faces.sort.LARGE_PX", PX)
    small = cv2.GaussianBlur(noise(1), (0, 0), 2)
    small[:40] = 0
    large = cv2.resize(small, (4 * PX, 4 * PX), interpolation=cv2.INTER_CUBIC)
    found = []
    for picture, points in ((small, record().landmarks), (large, record().landmarks * 4)):
        data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
        (tmp_path / "a.jpg").write_bytes(with_face(data, record(landmarks=points)))
        found.append(measure(tmp_path / "a.jpg"))
    one, four = found
    assert one.sharpness / 3 < four.sharpness < 3 * one.sharpness  # else a hundredth
    assert four.black == pytest.approx(16 * one.black, rel=0.2)
    assert four.yaw == pytest.approx(one.yaw, abs=1e-3)


def test_measuring_can_be_cancelled(folder):
    cancel = Cancel()
    cancel.set()
    with pytest.raises(Cancelled):
        measure_all(sorted(folder.iterdir()), threads=1, cancel=cancel)


def test_contact_sheet(folder):
    sheet = contact_sheet(sorted(folder.iterdir()), columns=3, px=20)
    assert sheet.shape == (40, 60, 3)
    assert sheet[:, :40].any()
    assert not sheet[20:, 40:].any()  # five of six places
    with pytest.raises(InputError, match="got none"):
        contact_sheet([])


def test_the_portrait_is_nearly_frontal(astronaut):
    yaw, pitch = pose_of(mesh.to_68(astronaut)[:, :2])
    assert abs(yaw) < 0.5
    assert abs(pitch) < 0.5
    assert portrait().shape == (512, 512, 3)
