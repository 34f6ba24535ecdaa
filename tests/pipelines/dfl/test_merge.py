"""Merging a whole clip: what is written, what is kept, what is refused."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from accel import unfinished
from accel.cli import main
from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.faces.faceset_pak import pack_folder
from accel.faces.merge_settings import MASKS, MODES, MergeSettings
from accel.pipelines.dfl.clear import clear_workspace
from accel.pipelines.dfl.merge import MergeConfig, merge_faces
from accel.pipelines.dfl.merge_session import MergeSession, load_session
from tests.pipelines.dfl.merge_clip import (
    FRAMES,
    HEIGHT,
    WIDTH,
    WITHOUT_FACE,
    add_film,
    drawn,
    make_workspace,
    pictures,
    place,
    write_model,
)

SHOWN = MergeSettings(mask="dst")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("merge") / "workspace")


@pytest.fixture
def workspace(prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "workspace")
    return tmp_path / "workspace"


def merged(workspace: Path, number: int, folder: str = "merged") -> np.ndarray:
    path = workspace / "data_dst" / folder / f"{number:05d}.png"
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture


def test_faces_change_and_all_else_stays(workspace):
    report = merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert (report["frames"], report["faces"], report["merged"]) == (FRAMES, FRAMES - 1, FRAMES)
    for number in range(1, FRAMES + 1):
        picture, mask = merged(workspace, number), merged(workspace, number, "merged_mask")
        assert mask.shape == (HEIGHT, WIDTH)
        assert np.array_equal(picture[mask == 0], drawn(number)[mask == 0])
        if number == WITHOUT_FACE:
            assert not mask.any()
            continue
        x, y = place(number)[30].astype(int)  # the nose
        assert mask[y, x] == 255
        assert np.abs(picture.astype(int) - drawn(number))[mask == 255].mean() > 5
        assert 0.02 < (mask > 0).mean() < 0.3


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_merges(workspace, mode):
    merge_faces(workspace, MergeConfig(settings=MergeSettings(mode=mode, mask="dst")))
    picture = merged(workspace, 1)
    if mode == "raw-predict":
        assert picture.shape == (64, 64, 3)
    elif mode == "original":
        assert np.array_equal(picture, drawn(1))
        assert merged(workspace, 1, "merged_mask").any()
    else:
        assert not np.array_equal(picture, drawn(1))


def test_a_second_run_keeps_what_is_merged_and_does_again_what_is_missing(workspace):
    config = MergeConfig(settings=SHOWN)
    merge_faces(workspace, config)
    before = pictures(workspace / "data_dst" / "merged")
    (workspace / "data_dst" / "merged" / "00002.png").unlink()
    report = merge_faces(workspace, config)
    assert (report["merged"], report["kept"]) == (1, FRAMES - 1)
    assert pictures(workspace / "data_dst" / "merged") == before


def test_frames_are_merged_again_when_their_settings_or_the_model_change(workspace, tmp_path):
    merge_faces(workspace, MergeConfig(settings=SHOWN))
    file = tmp_path / "merge.json"
    file.write_text(json.dumps(
        {"version": 1, "default": {"mask": "dst"}, "frames": {"00004": {"erode": 20}}}
    ))  # fmt: skip
    report = merge_faces(workspace, MergeConfig(config=file))
    assert report["merged"] == 2  # 4 and 5, which inherits
    write_model(workspace / "model", d_dims=6)
    assert merge_faces(workspace, MergeConfig(config=file))["merged"] == FRAMES


def test_a_cancelled_run_goes_on_where_it_stopped(workspace):
    cancel = Cancel()

    def stop(event):
        if event.done == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        merge_faces(workspace, MergeConfig(settings=SHOWN), progress=stop, cancel=cancel)
    report = merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert report["kept"] >= 2
    assert report["kept"] + report["merged"] == FRAMES


def test_a_config_of_differences_gives_the_bytes_of_whole_settings(workspace, tmp_path):
    settings = MergeSettings(mask="dst", mode="seamless", color="sot-m", erode=5, blur=10)
    merge_faces(workspace, MergeConfig(settings=settings, seed=3))
    expected = pictures(workspace / "data_dst" / "merged")
    job_names = [f"{n:05d}" for n in range(1, FRAMES + 1)]
    session = MergeSession(job_names, settings, seed=3)
    session.save(tmp_path / "merge.json")
    assert load_session(tmp_path / "merge.json", job_names).every() == session.every()
    report = merge_faces(workspace, MergeConfig(config=tmp_path / "merge.json", overwrite=True))
    assert report["merged"] == FRAMES
    assert pictures(workspace / "data_dst" / "merged") == expected


def test_a_packed_faceset_serves_too(workspace):
    merge_faces(workspace, MergeConfig(settings=SHOWN))
    expected = pictures(workspace / "data_dst" / "merged")
    aligned = workspace / "data_dst" / "aligned"
    pack_folder(aligned, aligned / "faceset.pak")
    both = merge_faces(workspace, MergeConfig(settings=SHOWN, overwrite=True))
    assert both["faces"] == FRAMES - 1  # none is merged twice
    assert any("faceset.pak is used, and not the 4 pictures" in note for note in both["notes"])
    for path in aligned.glob("*.jpg"):
        path.unlink()
    alone = merge_faces(workspace, MergeConfig(settings=SHOWN, overwrite=True))
    assert pictures(workspace / "data_dst" / "merged") == expected
    assert alone["notes"] == []


def test_a_film_is_written_and_marked(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    add_film(workspace)
    output = workspace / "result.mp4"
    report = merge_faces(workspace, MergeConfig(settings=SHOWN, to=output))
    with av.open(str(output)) as film:
        decoded = list(film.decode(video=0))
    frames = [frame.to_ndarray(format="bgr24") for frame in decoded]
    steps = np.diff([float(frame.time) for frame in decoded])
    assert np.allclose(steps, [0.04, 0.05, 0.04, 0.04], atol=2e-3)
    assert len(frames) == FRAMES == report["frames"]
    assert report["merged"] == FRAMES - 1
    assert report["marked"]["files"] == 1
    assert not (workspace / "data_dst" / "merged").exists()
    x, y = place(1)[30].astype(int)
    near = np.s_[y - 3 : y + 4, x - 3 : x + 4]
    assert np.abs(frames[0][near].astype(int) - drawn(1)[near]).mean() > 5


def test_options_that_a_config_overrules_are_told(workspace, tmp_path):
    path = tmp_path / "merge.json"
    path.write_text(json.dumps({"version": 1, "default": {"mode": "overlay", "erode": 3}}))
    given = MergeSettings(mask="dst", mode="seamless", erode=9, blur=5)
    report = merge_faces(workspace, MergeConfig(settings=given, config=path))
    assert [note.partition(" says ")[2] for note in report["notes"]] == [
        "erode 3; 9 is not used", "mode overlay; seamless is not used",
    ]  # fmt: skip
    assert (report["settings"]["blur"], report["settings"]["mask"]) == (5, "dst")


def test_the_command_merges_and_reports(workspace, tmp_path, capsys):
    words = ["--mode", "3", "--mask", "dst", "--color", "lct", "--erode", "4", "--sharpen", "box"]
    report = tmp_path / "report.json"
    assert main(["dfl", "merge", str(workspace), *words, "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    assert told["settings"]["mode"] == "seamless"
    assert told["settings"]["erode"] == 4
    text = capsys.readouterr().out
    assert f"{FRAMES} frames merged now" in text
    assert text.endswith(f"next: accel dfl encode {workspace}\n")
    assert main(["dfl", "merge", str(workspace), "--mode", "best"]) == 2
    assert "mode must be one of original, overlay" in capsys.readouterr().err


def test_settings_of_a_long_films_frames_are_found_at_once():
    names = [f"{i:06d}" for i in range(100_000)]
    session = MergeSession(names)
    early, late = MergeSettings(erode=1), MergeSettings(erode=2)
    session.change(90_000, late)
    session.change(10, early)
    found = [session.settings(i) for i in range(len(names))]
    assert found == session.every()
    assert [found[i] for i in (9, 10, 89_999, 90_000)] == [session.default, early, early, late]


# --- what cannot be merged ----------------------------------------------------------------------


def refused(workspace, match, error=InputError, **config):
    with pytest.raises(error, match=match) as caught:
        merge_faces(workspace, MergeConfig(**config))
    assert "\n" not in str(caught.value)


def test_no_model(workspace):
    shutil.rmtree(workspace / "model")
    refused(workspace, "model")
    (workspace / "model").mkdir()
    refused(workspace, "must hold a trained model, found none; run `accel dfl train")


def test_another_models_name(workspace):
    refused(workspace, "must hold a trained model other, found new_SAEHD", model="other")


def test_a_model_whose_weights_are_of_another_resolution(workspace):
    from accel.weights.dfl import write_data
    from tests.pipelines.dfl.merge_clip import OPTIONS

    data = {"iter": 1, "options": OPTIONS | {"resolution": 128}}
    write_data(workspace / "model" / "new_SAEHD_data.dat", data)
    refused(workspace, "weights must fit the model")


def test_a_model_without_options(workspace):
    from accel.weights.dfl import write_data

    write_data(workspace / "model" / "new_SAEHD_data.dat", {"iter": 1})
    refused(workspace, "must hold the model's options")


def test_an_empty_aligned_folder(workspace):
    for path in (workspace / "data_dst" / "aligned").iterdir():
        path.unlink()
    refused(workspace, "must hold aligned faces")


def test_faces_of_other_frames(workspace):
    for path in sorted((workspace / "data_dst").glob("*.png")):
        path.rename(path.with_name(f"x{path.name}"))
    refused(workspace, "faces must name frames such as x00001.png")


def test_a_run_that_was_killed_while_it_wrote_goes_on(workspace):
    merge_faces(workspace, MergeConfig(settings=SHOWN))
    merged, masks = (workspace / "data_dst" / name for name in ("merged", "merged_mask"))
    expected = pictures(masks)
    (merged / ".00002.png.partial").write_bytes(b"half")
    (masks / "00003.png").rename(masks / ".00003.png.partial")
    (merged / "merged.json").unlink()  # not saved yet
    report = merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert report["merged"] == FRAMES
    assert pictures(masks) == expected
    assert not list((workspace / "data_dst").rglob("*.partial"))
    (masks / ".00001.png.partial").write_bytes(b"half")
    clear_workspace(workspace, parts=("merged",), really=True)
    assert not masks.exists()


def test_a_frame_that_is_missing_is_told_of(workspace):
    (workspace / "data_dst" / "00002.png").unlink()
    report = merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert report["frames"] == FRAMES - 1
    assert any("1 faces belong to no frame" in note for note in report["notes"])


def test_a_frame_that_is_damaged(workspace):
    (workspace / "data_dst" / "00004.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(InputError, match=r"00004\.png"):
        merge_faces(workspace, MergeConfig(settings=SHOWN))
    assert (workspace / "data_dst" / "merged" / "00002.png").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "must be JSON"),
        ("[]", "must be merge settings of version 1"),
        ('{"version": 2}', "version 1"),
        ('{"version": 1, "framez": {}}', "there is no framez"),
        ('{"version": 1, "default": {"errode": 1}}', "default: there is no errode"),
        ('{"version": 1, "default": {"erode": 401}}', r"erode must be a whole number -400\.\.400"),
        ('{"version": 1, "default": {"erode": 1.5}}', "erode must be a whole number"),
        ('{"version": 1, "default": {"mode": "best"}}', "mode must be one of"),
        ('{"version": 1, "frames": {"99999": {}}}', "frames must be of this clip"),
        ('{"version": 1, "frames": {"00002": {"blurr": 1}}}', "frame 00002: there is no blurr"),
        ('{"version": 1, "frames": {"00002": 7}}', "frame 00002: must be settings by name"),
        ('{"version": 1, "seed": -1}', "seed must be a whole number"),
        ('{"version": 1, "color_variant": "x"}', "color_variant must be"),
    ],
)
def test_a_config_that_cannot_be_used(workspace, tmp_path, text, match):
    (tmp_path / "merge.json").write_text(text)
    refused(workspace, match, config=tmp_path / "merge.json")


def test_xseg_masks_need_their_network(workspace):
    settings = MergeSettings(mask=MASKS[6])
    refused(workspace, "needs xseg", ConfigError, settings=settings)


def test_raw_faces_make_no_film(workspace):
    settings = MergeSettings(mode="raw-predict")
    refused(workspace, "gives faces, not frames", ConfigError, settings=settings, to=Path("x.mp4"))


def test_a_mark_in_faces_alone_is_refused(capsys, workspace):
    words = ["--to", str(workspace / "result.mp4"), "--watermark", "face"]
    assert main(["dfl", "merge", str(workspace), *words]) == 2
    assert "watermark must be frame or off" in capsys.readouterr().err


def test_other_peoples_pictures_are_not_replaced(workspace):
    folder = workspace / "data_dst" / "merged"
    folder.mkdir()
    (folder / "00001.png").write_bytes(b"mine")
    refused(workspace, "did not make", ConfigError, settings=SHOWN)
    assert (folder / "00001.png").read_bytes() == b"mine"


def test_a_full_disk_leaves_whole_pictures_alone(workspace, monkeypatch):
    real = unfinished.put

    def put(path, data):
        if "00003" in path.name:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    monkeypatch.setattr(unfinished, "put", put)
    with pytest.raises(OSError, match="No space left"):
        merge_faces(workspace, MergeConfig(settings=SHOWN))
    monkeypatch.undo()
    for name, data in pictures(workspace / "data_dst" / "merged").items():
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (HEIGHT, WIDTH, 3), name
    assert not list((workspace / "data_dst").rglob("*.partial"))
    assert merge_faces(workspace, MergeConfig(settings=SHOWN))["kept"] >= 1
