"""Faces cut out of frames: what is written, what is dropped, what a second run does."""

from __future__ import annotations

import os
import pickletools
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.faces import mesh
from accel.faces.align import transform
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.faceset import faces_in, metadata_of, read_face
from accel.faces.find import FaceModels, find_faces
from accel.pipelines.demo import moving_portrait
from accel.pipelines.dfl.extract import ExtractConfig, extract_faces, read_journal
from accel.pipelines.dfl.frames import open_frames
from accel.pipelines.dfl.pack import pack_faces
from accel.pipelines.dfl.save_frames import save_frames
from tests.faces.film import move, picture
from tests.pipelines.clips import write_clip
from tests.pipelines.dfl.clips import FRAMES, full_disk, workspace


@pytest.fixture(scope="module")
def models():
    return FaceModels()


@pytest.fixture(scope="module")
def done(tmp_path_factory, models):
    """A workspace whose source is extracted with default settings, with debug pictures."""
    folder = workspace(tmp_path_factory.mktemp("done"), sides=("src",))
    report = extract_faces(folder, "src", ExtractConfig(debug=True), models=models)
    return folder, report


def test_every_frame_gives_a_face_and_its_picture_is_the_frames(done):
    folder, report = done
    assert (report["frames"], report["faces"], report["dropped"]) == (FRAMES, FRAMES, {})
    paths = faces_in(folder / "data_src" / "aligned")
    assert [p.name for p in paths] == [f"{i:05d}_0.jpg" for i in range(1, FRAMES + 1)]
    with open_frames(folder, "src") as source:
        for path, named in zip(paths, source):
            record = read_face(path)
            assert record.source_filename == named.name
            assert record.face_type is FaceType.WHOLE
            frame = named.frame.picture.to_ndarray(format="bgr24")
            wanted = cv2.warpAffine(frame, record.matrix, (512, 512))
            error = np.abs(cv2.imread(str(path)).astype(int) - wanted).mean()
            assert error < 4  # JPEG's


def test_the_metadata_is_deepfacelabs(done):
    folder, _ = done
    path = faces_in(folder / "data_src" / "aligned")[3]
    data = path.read_bytes()
    assert data[:4] == b"\xff\xd8\xff\xe0"
    assert data[6:10] == b"JFIF"
    payload = metadata_of(data)
    opcodes = {op.name for op, _, _ in pickletools.genops(payload)}
    assert "PROTO" in opcodes
    record = read_face(path)
    assert record.landmarks.shape == record.source_landmarks.shape == (68, 2)
    expected = crop_matrix(record.source_landmarks, FaceType.WHOLE, 512)
    np.testing.assert_allclose(record.matrix, expected)
    np.testing.assert_allclose(
        record.landmarks, transform(expected, record.source_landmarks), atol=1e-9
    )
    left, top, right, bottom = record.source_rect
    middle = record.source_landmarks.mean(0)
    assert left < middle[0] < right
    assert top < middle[1] < bottom
    assert all(float(v).is_integer() for v in record.source_rect)


def test_landmarks_lie_where_a_thorough_look_finds_them(done, models):
    folder, _ = done
    with open_frames(folder, "src") as source:
        for path, named in zip(faces_in(folder / "data_src" / "aligned"), source):
            points = read_face(path).source_landmarks
            # The collar looks like a face too, to one who looks at every part of a single frame.
            found = find_faces(named.frame.planes, models=models)
            gaps = [np.linalg.norm(points - mesh.to_68(f.landmarks)[:, :2], axis=1) for f in found]
            assert min(gap.mean() / f.size for gap, f in zip(gaps, found)) < 0.012


def test_debug_pictures_show_box_points_and_crop(done):
    folder, _ = done
    shown = sorted((folder / "data_src" / "aligned_debug").glob("*.jpg"))
    assert len(shown) == FRAMES
    debug = cv2.imread(str(shown[4])).astype(int)
    with open_frames(folder, "src") as source:
        plain = source.read("00005.png").picture.to_ndarray(format="bgr24").astype(int)
    green = (debug[..., 1] - plain[..., 1] > 60).sum()
    red = (debug[..., 2] - plain[..., 2] > 60).sum()
    assert green > 50
    assert red > 50


@pytest.mark.parametrize(
    ("name", "word", "side"),
    [("half", "half_face", 512), ("midfull", "midfull_face", 512), ("full", "full_face", 512),
     ("head", "head", 768)],
)  # fmt: skip
def test_face_types_and_their_sizes(tmp_path, models, name, word, side):
    workspace(tmp_path, sides=("src",), frames=2)
    extract_faces(tmp_path, "src", ExtractConfig(face_type=name), models=models)
    path = faces_in(tmp_path / "data_src" / "aligned")[0]
    assert read_face(path).face_type.value == word
    assert cv2.imread(str(path)).shape == (side, side, 3)


def test_pictures_give_the_same_faces_as_the_film(tmp_path, models, done):
    workspace(tmp_path, sides=("src",))
    save_frames(tmp_path, "src")
    extract_faces(tmp_path, "src", models=models)
    pairs = zip(
        faces_in(tmp_path / "data_src" / "aligned"), faces_in(done[0] / "data_src" / "aligned")
    )
    for one, other in pairs:
        a, b = read_face(one), read_face(other)
        assert a.source_filename == b.source_filename
        assert np.abs(a.source_landmarks - b.source_landmarks).mean() < 0.7


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("from_pictures", [False, True], ids=["film", "pictures"])
def test_a_film_that_a_player_turns_gives_upright_faces(
    tmp_path, models, done, turns, from_pictures
):
    lying = [np.rot90(p, turns) for p in moving_portrait(FRAMES, 320, 240)]
    height, width = lying[0].shape[:2]
    angle = {1: -90, 2: 180, 3: 90}[turns]
    film = tmp_path / "data_src.mp4"
    write_clip(film, pictures=lying, width=width, height=height, rotation=angle)
    if from_pictures:
        save_frames(tmp_path, "src")
    extract_faces(tmp_path, "src", ExtractConfig(debug=True), models=models)
    faces = faces_in(tmp_path / "data_src" / "aligned")
    assert len(faces) == FRAMES
    for one, other in zip(faces, faces_in(done[0] / "data_src" / "aligned")):
        a, b = read_face(one), read_face(other)
        assert np.abs(a.source_landmarks - b.source_landmarks).mean() < 0.7
        assert np.abs(cv2.imread(str(one)).astype(int) - cv2.imread(str(other))).mean() < 8
    debug = cv2.imread(str(tmp_path / "data_src" / "aligned_debug" / "00001.jpg"))
    assert debug.shape == (240, 320, 3)


def test_runs_write_the_same_bytes_whatever_the_number_of_threads(tmp_path, done, monkeypatch):
    shutil.copy(done[0] / "data_src.mp4", tmp_path)
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    extract_faces(tmp_path, "src", models=FaceModels(threads=2))
    one, other = (faces_in(folder / "data_src" / "aligned") for folder in (tmp_path, done[0]))
    assert [path.name for path in one] == [path.name for path in other]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, other))


def test_a_complete_run_is_not_repeated_and_deleted_faces_stay_away(tmp_path, models):
    workspace(tmp_path, sides=("src",))
    extract_faces(tmp_path, "src", models=models)
    gone = faces_in(tmp_path / "data_src" / "aligned")[2]
    gone.unlink()
    report = extract_faces(tmp_path, "src", models=models)
    assert (report["frames_now"], report["faces"]) == (0, FRAMES)
    assert not gone.exists()
    again = extract_faces(tmp_path, "src", ExtractConfig(overwrite=True), models=models)
    assert again["frames_now"] == FRAMES
    assert gone.exists()


def test_when_all_faces_were_deleted_they_are_extracted_again(tmp_path, models):
    workspace(tmp_path, sides=("src",), frames=3)
    folder = tmp_path / "data_src" / "aligned"
    extract_faces(tmp_path, "src", models=models)
    pack_faces(tmp_path, "src")
    assert extract_faces(tmp_path, "src", models=models)["frames_now"] == 0
    (folder / "faceset.pak").unlink()
    with pytest.raises(InputError, match="must hold aligned faces, found none; run `accel dfl ext"):
        pack_faces(tmp_path, "src")
    assert extract_faces(tmp_path, "src", models=models)["frames_now"] == 3
    assert len(faces_in(folder)) == 3


def test_a_run_that_was_broken_off_goes_on(tmp_path, models):
    workspace(tmp_path, sides=("src",), frames=60)
    cancel = Cancel()
    with pytest.raises(Cancelled):
        extract_faces(
            tmp_path,
            "src",
            models=models,
            progress=lambda event: cancel.set() if event.done == 40 else None,
            cancel=cancel,
        )
    folder = tmp_path / "data_src" / "aligned"
    journal = read_journal(folder)
    assert not journal["complete"]
    assert journal["done"] >= 40
    kept = (folder / "00010_0.jpg").stat().st_mtime_ns
    report = extract_faces(tmp_path, "src", models=models)
    assert report["frames_now"] == 60 - journal["done"]
    assert report["faces"] == len(faces_in(folder)) == 60
    assert (folder / "00010_0.jpg").stat().st_mtime_ns == kept
    for path in faces_in(folder)[journal["done"] :]:
        assert read_face(path).landmarks.shape == (68, 2)


def test_other_settings_need_overwrite_and_strange_faces_are_never_touched(tmp_path, models):
    workspace(tmp_path, sides=("src",), frames=3)
    extract_faces(tmp_path, "src", models=models)
    with pytest.raises(ConfigError, match=r"face_type whole_face, now full_face.*--overwrite"):
        extract_faces(tmp_path, "src", ExtractConfig(face_type="full"), models=models)
    config = ExtractConfig(face_type="full", overwrite=True)
    assert extract_faces(tmp_path, "src", config, models=models)["faces"] == 3
    folder = tmp_path / "data_src" / "aligned"
    (folder / "mine.jpg").write_bytes((folder / "00001_0.jpg").read_bytes())
    config = ExtractConfig(face_type="half", overwrite=True)
    with pytest.raises(ConfigError, match=r"not extracted here, such as mine\.jpg"):
        extract_faces(tmp_path, "src", config, models=models)
    assert len(faces_in(folder)) == 4


def test_faces_that_are_small_or_cut_off_are_dropped_and_counted(tmp_path, models):
    frames = [picture(move(dx=-158), move(zoom=0.5, dx=70)) for _ in range(6)]
    write_clip(tmp_path / "data_src.mp4", pictures=frames)
    config = ExtractConfig(min_face_px=70)
    report = extract_faces(tmp_path, "src", config, models=models)
    assert report["faces"] == 0
    assert set(report["dropped"]) <= {"too small", "outside the frame"}
    assert report["dropped"]["too small"] == 6
    assert "no face was found" in report["notes"][-1]


def test_the_largest_faces_are_kept(tmp_path, models):
    frames = [picture(move(dx=-70, zoom=0.8), move(zoom=0.5, dx=80)) for _ in range(4)]
    write_clip(tmp_path / "data_src.mp4", pictures=frames)
    assert extract_faces(tmp_path, "src", models=models)["faces"] == 8
    config = ExtractConfig(max_faces=1, overwrite=True)
    report = extract_faces(tmp_path, "src", config, models=models)
    assert report["faces"] == 4
    record = read_face(faces_in(tmp_path / "data_src" / "aligned")[0])
    assert record.source_landmarks[:, 0].mean() < 160


def test_a_full_disk_leaves_whole_faces_only_and_the_next_run_goes_on(
    tmp_path, models, monkeypatch
):
    workspace(tmp_path, sides=("src",))
    with monkeypatch.context() as patch:
        full_disk(patch, after=4)
        with pytest.raises(OSError, match="No space left"):
            extract_faces(tmp_path, "src", models=models)
    folder = tmp_path / "data_src" / "aligned"
    for path in faces_in(folder):
        assert path.read_bytes().endswith(b"\xff\xd9")
    assert not list(folder.glob("*.partial"))
    assert not list(folder.glob(".*.partial"))
    report = extract_faces(tmp_path, "src", models=models)
    assert report["faces"] == len(faces_in(folder)) == FRAMES


def test_bad_settings_and_bad_frames(tmp_path, models):
    with pytest.raises(ConfigError, match="face type must be one of"):
        ExtractConfig(face_type="nose")
    with pytest.raises(ConfigError, match="must be one that is cut out"):
        ExtractConfig(face_type="mark_only")
    with pytest.raises(ConfigError, match="size must lie in"):
        ExtractConfig(size=4)
    with pytest.raises(InputError, match="must hold a film"):
        extract_faces(tmp_path, "src")
    workspace(tmp_path, sides=("src",), frames=3)
    save_frames(tmp_path, "src")
    (tmp_path / "data_src" / "00002.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    with pytest.raises(InputError, match=r"00002\.png"):
        extract_faces(tmp_path, "src", models=models)


# --- landmarks by a network that the user brings ---------------------------------------------


def fan_like(path: Path, maps: int = 68) -> Path:
    """A network of 2DFAN-4's signature whose points form the mean face in any crop."""
    rng = np.linspace(10, 54, 68)
    grid = np.zeros((1, maps, 64, 64), np.float32)
    for i in range(maps):
        grid[0, i, int(64 - rng[i % 68]), int(rng[(i * 7) % 68])] = 1
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "grid"], ["heatmaps"]),
    ]
    graph = helper.make_graph(
        nodes,
        "fan",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 256, 256])],
        [helper.make_tensor_value_info("heatmaps", TensorProto.FLOAT, ["n", maps, 64, 64])],
        [
            numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes"),
            numpy_helper.from_array(np.zeros(1, np.float32), "nothing"),
            numpy_helper.from_array(grid, "grid"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def test_a_landmark_network_is_used_when_given(tmp_path, models):
    workspace(tmp_path, sides=("src",), frames=2)
    network = fan_like(tmp_path / "fan.onnx")
    config = ExtractConfig(landmarks=network, face_type="whole")
    extract_faces(tmp_path, "src", config, models=models)
    record = read_face(faces_in(tmp_path / "data_src" / "aligned")[0])
    with open_frames(tmp_path, "src") as source:
        face = find_faces(source.read("00001.png").planes, models=models)[0]
    apart = record.source_landmarks - mesh.to_68(face.landmarks)[:, :2]
    assert np.linalg.norm(apart, axis=1).mean() > 0.05 * face.size  # its own points, not the mesh's


def test_a_network_of_another_signature_is_refused(tmp_path, models):
    workspace(tmp_path, sides=("src",), frames=2)
    config = ExtractConfig(landmarks=fan_like(tmp_path / "fan.onnx", maps=98))
    with pytest.raises(InputError, match="must be a 2DFAN-4 network"):
        extract_faces(tmp_path, "src", config, models=models)
