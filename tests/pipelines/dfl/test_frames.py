"""Frames from a film and from its pictures: same names, same times, same content."""

from __future__ import annotations

import json

import numpy as np
import pytest

from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.pipelines.dfl.frames import INDEX_NAME, load_index, open_frames
from accel.pipelines.dfl.save_frames import FramesConfig, save_frames
from accel.pipelines.dfl.workspace import Workspace
from tests.pipelines.dfl.clips import FRAMES, UNEVEN, full_disk, rgb, workspace


def listed(folder, side="dst", **options):
    with open_frames(folder, side, **options) as source:
        return [(f.name, f.frame.pts * f.frame.time_base, rgb(f.frame)) for f in source]


def test_a_film_gives_numbered_names_and_its_own_times(tmp_path):
    workspace(tmp_path, pts=UNEVEN)
    found = listed(tmp_path)
    assert [name for name, _, _ in found] == [f"{i:05d}.png" for i in range(1, FRAMES + 1)]
    assert [float(at * 24) for _, at, _ in found] == UNEVEN
    with open_frames(tmp_path, "dst") as source:
        assert len(source) == FRAMES
        assert source.folder is None
        assert source.video == tmp_path / "data_dst.mp4"


@pytest.mark.parametrize(("suffix", "error"), [("png", 1.5), ("jpg", 6)])
def test_pictures_give_what_the_film_gave(tmp_path, suffix, error):
    workspace(tmp_path, sides=("dst",), pts=UNEVEN)
    film = listed(tmp_path)
    report = save_frames(tmp_path, "dst", FramesConfig(format=suffix))
    assert (report["frames"], report["written"], report["missing"]) == (FRAMES, FRAMES, 0)
    pictures = listed(tmp_path)
    assert [n for n, _, _ in pictures] == [n.replace("png", suffix) for n, _, _ in film]
    assert [at for _, at, _ in pictures] == [at for _, at, _ in film]
    for (_, _, one), (_, _, other) in zip(film, pictures):
        assert np.abs(one - other).mean() < error
    with open_frames(tmp_path, "dst") as source:
        assert source.folder == tmp_path / "data_dst"
        assert source.index.is_complete


@pytest.mark.parametrize("from_pictures", [False, True])
def test_any_frame_can_be_read_by_name_and_written_into(tmp_path, from_pictures):
    # Key frames every four: reading jumps forward, back, and to the first.
    workspace(tmp_path, sides=("dst",), frames=20, options={"g": "4", "bf": "2"})
    if from_pictures:
        save_frames(tmp_path, "dst")
    wanted = {name: (at, picture) for name, at, picture in listed(tmp_path)}
    with open_frames(tmp_path, "dst") as source:
        for number in (15, 2, 3, 19, 1, 20, 4):
            name = f"{number:05d}.png"
            frame = source.read(name)
            assert frame.pts * frame.time_base == wanted[name][0]
            assert np.array_equal(rgb(frame), wanted[name][1])
            frame.planes.c0.zero_()  # the next reader must not see this
            assert np.array_equal(rgb(source.read(name)), wanted[name][1])
        with pytest.raises(InputError, match=r"no frame '00021\.png'"):
            source.read("00021.png")


def test_fps_thins_out_and_names_stay_without_gaps(tmp_path):
    workspace(tmp_path, sides=("src",), frames=24)
    found = listed(tmp_path, "src", fps=6)
    assert [n for n, _, _ in found] == [f"{i:05d}.png" for i in range(1, len(found) + 1)]
    assert len(found) == 6
    report = save_frames(tmp_path, "src", FramesConfig(fps=6))
    assert report["frames"] == 6
    assert [at for _, at, _ in listed(tmp_path, "src")] == [at for _, at, _ in found]
    with pytest.raises(ConfigError, match="fps must lie in"):
        open_frames(tmp_path, "src", fps=0)


def test_a_turned_film_is_given_upright_as_its_pictures_are(tmp_path):
    workspace(tmp_path, sides=("dst",), rotation=90)
    film = listed(tmp_path)
    with open_frames(tmp_path, "dst") as source:
        assert (source.info.width, source.info.height, source.info.rotation) == (240, 320, 0)
        assert np.abs(rgb(source.read("00002.png")) - film[1][2]).max() == 0
    save_frames(tmp_path, "dst")
    for (_, _, one), (_, _, other) in zip(film, listed(tmp_path)):
        assert one.shape == (320, 240, 3)
        assert np.abs(one - other).mean() < 1.5


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("data_{side}.mkv", "libx264", "yuv420p"),
        ("data_{side}.mov", "mpeg4", "yuv420p"),
        ("data_{side}.avi", "mpeg4", "yuv420p"),
        ("data_{side}.webm", "libvpx-vp9", "yuv420p"),
        ("data_{side}.gif", "gif", "rgb8"),
        ("data_{side}.m4v", "libx264", "yuv420p"),
        ("data_{side}.ts", "libx264", "yuv420p"),
        ("data_{side}.mts", "libx264", "yuv420p"),
        ("data_{side}.m2ts", "libx264", "yuv420p"),
        ("data_{side}.mpg", "mpeg2video", "yuv420p"),
        ("data_{side}.wmv", "wmv2", "yuv420p"),
        ("data_{side}.flv", "flv1", "yuv420p"),
    ],
)
def test_films_of_every_kind(tmp_path, name, codec, pix_fmt):
    workspace(tmp_path, sides=("dst",), name=name, codec=codec, pix_fmt=pix_fmt)
    found = listed(tmp_path)
    assert len(found) == FRAMES
    with open_frames(tmp_path, "dst") as source:
        assert np.array_equal(rgb(source.read("00007.png")), found[6][2])


def test_a_run_that_was_broken_off_goes_on(tmp_path):
    workspace(tmp_path, sides=("dst",))
    cancel = Cancel()
    with pytest.raises(Cancelled):
        save_frames(
            tmp_path,
            "dst",
            progress=lambda event: cancel.set() if event.done == 3 else None,
            cancel=cancel,
        )
    index = load_index(tmp_path / "data_dst" / INDEX_NAME)
    assert not index.is_complete
    with open_frames(tmp_path, "dst") as source:
        assert f"of {FRAMES} frames, `frames` was broken off; run it again" in source.notes[0]
    assert not list((tmp_path / "data_dst").glob(".*partial"))
    report = save_frames(tmp_path, "dst")
    assert report["kept"] >= 3
    assert report["kept"] + report["written"] == FRAMES
    assert save_frames(tmp_path, "dst")["written"] == 0


def test_other_settings_need_overwrite_and_strange_pictures_are_never_touched(tmp_path):
    workspace(tmp_path, sides=("src",))
    save_frames(tmp_path, "src")
    with pytest.raises(ConfigError, match="--overwrite"):
        save_frames(tmp_path, "src", FramesConfig(format="jpg"))
    save_frames(tmp_path, "src", FramesConfig(format="jpg", overwrite=True))
    assert {p.suffix for p in (tmp_path / "data_src").glob("0*")} == {".jpg"}
    (tmp_path / "data_src" / "mine.png").write_bytes(b"picture")
    with pytest.raises(ConfigError, match=r"not made here, such as mine\.png"):
        save_frames(tmp_path, "src", FramesConfig(overwrite=True))
    assert (tmp_path / "data_src" / "mine.png").read_bytes() == b"picture"


def test_a_full_disk_leaves_no_half_picture_and_the_next_run_goes_on(tmp_path, monkeypatch):
    workspace(tmp_path, sides=("dst",))
    with monkeypatch.context() as patch:
        full_disk(patch, after=4)
        with pytest.raises(OSError, match="No space left"):
            save_frames(tmp_path, "dst")
    left = sorted(p.name for p in (tmp_path / "data_dst").iterdir() if p.suffix == ".png")
    assert 0 < len(left) <= 4
    assert not list((tmp_path / "data_dst").glob("*partial"))
    assert save_frames(tmp_path, "dst")["kept"] == len(left)


def test_pictures_of_deepfacelab_take_the_films_times(tmp_path):
    workspace(tmp_path, sides=("dst",), pts=UNEVEN)
    save_frames(tmp_path, "dst")
    (tmp_path / "data_dst" / INDEX_NAME).unlink()
    assert [float(at * 24) for _, at, _ in listed(tmp_path)] == UNEVEN
    (tmp_path / "data_dst" / "00004.png").unlink()
    with open_frames(tmp_path, "dst") as source:
        assert "shown evenly" in source.notes[0]
        assert len(list(source)) == FRAMES - 1


def test_deleted_pictures_keep_the_others_in_time(tmp_path):
    workspace(tmp_path, sides=("dst",), pts=UNEVEN)
    save_frames(tmp_path, "dst")
    (tmp_path / "data_dst" / "00004.png").unlink()
    assert [float(at * 24) for _, at, _ in listed(tmp_path)] == UNEVEN[:3] + UNEVEN[4:]


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"version": 2}', '{"version": 1, "pts": {"a": 1}, "time_base": "0"}'],
    ids=["cut", "list", "version", "keys"],
)
def test_a_damaged_index_is_refused_in_one_line(tmp_path, text):
    workspace(tmp_path, sides=("dst",))
    save_frames(tmp_path, "dst")
    (tmp_path / "data_dst" / INDEX_NAME).write_text(text)
    with pytest.raises(InputError, match="must be an index of frames") as caught:
        open_frames(tmp_path, "dst")
    assert "\n" not in str(caught.value)


def test_an_index_whose_times_fall_is_refused(tmp_path):
    workspace(tmp_path, sides=("dst",))
    save_frames(tmp_path, "dst")
    path = tmp_path / "data_dst" / INDEX_NAME
    values = json.loads(path.read_text())
    values["pts"]["00003.png"] = -5
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match="do not rise"):
        open_frames(tmp_path, "dst")


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"must hold a film data_src\.\*"):
        open_frames(tmp_path, "src")
    with pytest.raises(InputError, match="must be a folder"):
        Workspace(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="side must be src or dst"):
        open_frames(tmp_path, "middle")
    for name in ("data_src.mp4", "data_src.mkv"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=r"found data_src\.mkv, data_src\.mp4"):
        Workspace(tmp_path).video("src")


def test_a_film_that_is_no_film(tmp_path):
    (tmp_path / "data_src.mp4").write_text("no film " * 100)
    with pytest.raises(InputError, match="first bytes fit neither"):
        open_frames(tmp_path, "src")
    whole = workspace(tmp_path, sides=("dst",), frames=30) / "data_dst.mp4"
    whole.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(InputError, match=r"data_dst\.mp4"):
        open_frames(tmp_path, "dst")
