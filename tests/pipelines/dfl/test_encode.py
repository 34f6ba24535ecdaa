"""Merged frames back in a film: times, sound, content, marks, and what bad input leaves behind."""

from __future__ import annotations

import errno
import os

import av
import cv2
import numpy as np
import pytest

from accel.core import Cancel, Cancelled, ConfigError, InputError
from accel.pipelines.dfl.clear import clear_workspace
from accel.pipelines.dfl.encode import encode_result, open_result
from accel.pipelines.dfl.frames import open_frames
from accel.pipelines.dfl.save_frames import bgr_of, save_frames
from accel.pipelines.provenance import Marker, ProvenanceConfig
from accel.pipelines.swap import EncodeConfig
from accel.pipelines.verify import verify_file
from accel.unfinished import passing_name
from accel.video.read import open_video
from tests.pipelines.clips import audio_packets, decode
from tests.pipelines.dfl.clips import FRAMES, UNEVEN, workspace

BARE = ProvenanceConfig(watermark="off", label="off", credentials=False, ledger=False)
EXACT = EncodeConfig(lossless=True)


def merge(folder, but=(), spot=(0, 0, 255)):
    """Stand in for the merger: a spot on every frame, and a mask of it."""
    for kind in ("merged", "merged_mask"):
        (folder / "data_dst" / kind).mkdir(parents=True, exist_ok=True)
    with open_frames(folder, "dst") as source:
        for number, named in enumerate(source):
            if number in but:
                continue
            picture = bgr_of(named.frame.planes)
            mask = np.zeros(picture.shape[:2], np.uint8)
            cv2.circle(picture, (100, 100), 30, spot, -1)
            cv2.circle(mask, (100, 100), 30, 255, -1)
            name = f"{number + 1:05d}.png"
            cv2.imwrite(str(folder / "data_dst" / "merged" / name), picture)
            cv2.imwrite(str(folder / "data_dst" / "merged_mask" / name), mask)


def colour_at(path, x, y):
    """RGB at a place in every frame of a film."""
    with av.open(str(path)) as film:
        return [f.to_ndarray(format="rgb24")[y, x].astype(int) for f in film.decode(video=0)]


@pytest.mark.parametrize("from_pictures", [False, True])
def test_times_and_sound_are_the_targets(tmp_path, from_pictures):
    workspace(tmp_path, sides=("dst",), pts=UNEVEN, audio=True)
    if from_pictures:
        save_frames(tmp_path, "dst")
    merge(tmp_path)
    report = encode_result(tmp_path, provenance=BARE)
    assert (report["frames"], report["merged"], report["notes"]) == (FRAMES, FRAMES, [])
    source, result = tmp_path / "data_dst.mp4", tmp_path / "result.mp4"
    assert [at for at, _ in decode(result)] == [at for at, _ in decode(source)]
    assert audio_packets(result) == audio_packets(source)
    for red in colour_at(result, 100, 100):
        assert np.abs(red - [255, 0, 0]).max() < 30
    with open_video(source) as one, open_video(result) as other:
        assert (one.info.color, one.info.pixel_format) == (other.info.color, "yuv420p")


def test_what_was_not_merged_is_the_target_itself(tmp_path):
    workspace(tmp_path, sides=("dst",))
    merge(tmp_path, but=(2, 5))
    (tmp_path / "data_dst" / "merged" / "stranger.png").write_bytes(
        (tmp_path / "data_dst" / "merged" / "00001.png").read_bytes()
    )
    report = encode_result(tmp_path, config=EXACT, provenance=BARE)
    assert report["merged"] == FRAMES - 2
    assert "2 frames were not merged" in report["notes"][0]
    assert "stranger.png" in report["notes"][1]
    pairs = list(zip(decode(tmp_path / "data_dst.mp4"), decode(tmp_path / "result.mp4")))
    for number, ((_, one), (_, other)) in enumerate(pairs):
        is_same = all(np.array_equal(a, b) for a, b in zip(one, other))
        assert is_same == (number in (2, 5))
        # Through eight-bit RGB and back, away from the spot.
        assert np.abs(one[0][140:].astype(int) - other[0][140:]).mean() < 0.8


def test_masks_become_a_film_of_their_own(tmp_path):
    workspace(tmp_path, sides=("dst",), audio=True)
    merge(tmp_path, but=(4,))
    encode_result(tmp_path, mask_output=tmp_path / "masks.mp4", provenance=BARE)
    with av.open(str(tmp_path / "masks.mp4")) as film:
        assert [stream.type for stream in film.streams] == ["video"]
    with av.open(str(tmp_path / "result.mp4")) as film:
        assert [stream.type for stream in film.streams] == ["video", "audio"]
    assert [at for at, _ in decode(tmp_path / "masks.mp4")] == [
        at for at, _ in decode(tmp_path / "data_dst.mp4")
    ]
    inside, outside = (colour_at(tmp_path / "masks.mp4", *p) for p in ((100, 100), (200, 200)))
    for number, (one, other) in enumerate(zip(inside, outside)):
        assert one.min() > 240 or (number == 4 and one.max() < 12)
        assert other.max() < 12


def test_a_turned_film_and_its_result_look_alike(tmp_path):
    workspace(tmp_path, sides=("dst",), rotation=90)
    merge(tmp_path)
    encode_result(tmp_path, provenance=BARE)
    with open_video(tmp_path / "result.mp4") as result:
        assert (result.info.width, result.info.height, result.info.rotation) == (240, 320, 0)
    assert np.abs(colour_at(tmp_path / "result.mp4", 100, 100)[3] - [255, 0, 0]).max() < 30


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("data_{side}.gif", "gif", "rgb8"),
        ("data_{side}.mkv", "libx264", "yuv422p10le"),
        ("data_{side}.mpg", "mpeg2video", "yuv420p"),
        ("data_{side}.wmv", "wmv2", "yuv420p"),
        ("data_{side}.ts", "libx264", "yuv420p"),
    ],
)
def test_targets_of_other_kinds(tmp_path, name, codec, pix_fmt):
    workspace(tmp_path, sides=("dst",), name=name, codec=codec, pix_fmt=pix_fmt)
    merge(tmp_path)
    report = encode_result(tmp_path, provenance=BARE)
    assert report["frames"] == FRAMES
    with open_video(tmp_path / "result.mp4") as result:
        wanted = "yuv420p" if codec == "gif" else pix_fmt
        assert result.info.pixel_format == wanted
    assert np.abs(colour_at(tmp_path / "result.mp4", 100, 100)[3] - [255, 0, 0]).max() < 40


@pytest.mark.parametrize(("suffix", "codec"), [(".gif", "gif"), (".mp4", "h264")])
def test_nothing_is_said_of_a_codec_that_a_gif_never_had(tmp_path, suffix, codec):
    workspace(tmp_path, sides=("dst",), name="data_{side}.gif", codec="gif", pix_fmt="rgb8")
    merge(tmp_path)
    output = tmp_path / f"out{suffix}"
    report = encode_result(tmp_path, output, provenance=BARE)
    with av.open(str(output)) as made:
        assert made.streams.video[0].codec_context.name == codec
    assert not [note for note in report["notes"] if "is encoded as" in note]


def test_a_target_without_a_film_is_encoded_from_its_pictures(tmp_path):
    workspace(tmp_path, sides=("dst",))
    save_frames(tmp_path, "dst")
    (tmp_path / "data_dst.mp4").unlink()
    merge(tmp_path)
    assert encode_result(tmp_path, provenance=BARE)["frames"] == FRAMES
    marked = encode_result(tmp_path, tmp_path / "marked.mp4")
    assert marked["marked"]["credential"] == "embedded"


def test_the_result_is_marked_and_the_credential_holds(tmp_path):
    workspace(tmp_path, sides=("dst",))
    merge(tmp_path)
    report = encode_result(tmp_path)
    assert report["marked"]["label"] == "corner"
    assert report["marked"]["credential"] == "embedded"
    assert len(report["marked"]["marks"]) == 1
    found = verify_file(tmp_path / "result.mp4")
    assert found.status == 0


def test_the_face_mark_is_refused(tmp_path):
    workspace(tmp_path, sides=("dst",))
    merge(tmp_path)
    with pytest.raises(ConfigError, match="watermark must be frame or off"):
        encode_result(tmp_path, provenance=ProvenanceConfig(watermark="face"))


def test_frames_that_nobody_altered_are_not_called_so(tmp_path):
    workspace(tmp_path, sides=("dst",))
    marker = Marker(ProvenanceConfig(), task="face_swap")
    with (
        open_frames(tmp_path, "dst") as source,
        open_result(tmp_path / "out.mp4", source, marker=marker) as writer,
    ):
        for named in source:
            writer.write(named.frame, altered=False)
    assert marker.report()["files"] == 0


def test_an_existing_result_is_kept_unless_asked(tmp_path):
    workspace(tmp_path, sides=("dst",), frames=3)
    merge(tmp_path)
    (tmp_path / "result.mp4").write_text("mine")
    with pytest.raises(ConfigError, match="exists; choose another name"):
        encode_result(tmp_path, provenance=BARE)
    assert (tmp_path / "result.mp4").read_text() == "mine"
    assert encode_result(tmp_path, provenance=BARE, overwrite=True)["frames"] == 3


def test_the_masks_do_not_take_the_place_of_the_film(tmp_path):
    with pytest.raises(ConfigError, match="must have two names"):
        encode_result(tmp_path, tmp_path / "r.mkv", mask_output=tmp_path / "." / "r.mkv")
    assert list(tmp_path.iterdir()) == []


def test_nothing_merged_and_pictures_of_other_names(tmp_path):
    workspace(tmp_path, sides=("dst",), frames=3)
    with pytest.raises(InputError, match=r"must hold merged frames, found none;.*merge"):
        encode_result(tmp_path)
    merge(tmp_path)
    for path in (tmp_path / "data_dst" / "merged").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    with pytest.raises(InputError, match=r"named as the target's frames, such as 00001\.png"):
        encode_result(tmp_path)


def test_a_broken_picture_leaves_no_result(tmp_path):
    workspace(tmp_path, sides=("dst",))
    merge(tmp_path)
    (tmp_path / "data_dst" / "merged" / "00004.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"00004\.png") as caught:
        encode_result(tmp_path, provenance=BARE)
    assert "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_last_good_result(tmp_path, monkeypatch):
    workspace(tmp_path, sides=("dst",))
    merge(tmp_path)
    encode_result(tmp_path, provenance=BARE)
    good = (tmp_path / "result.mp4").read_bytes()
    before = {p.name for p in tmp_path.iterdir()}

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("accel.video.write.VideoWriter._mux", full)
        with pytest.raises(ConfigError, match="cannot be written: No space left"):
            encode_result(tmp_path, provenance=BARE, overwrite=True)
    assert (tmp_path / "result.mp4").read_bytes() == good
    assert {p.name for p in tmp_path.iterdir()} == before


def test_clearing_takes_what_a_killed_run_left(tmp_path):
    workspace(tmp_path, sides=("dst",))
    left, other = (passing_name(tmp_path / name, "0123abcd") for name in ("result.mp4", "her.mp4"))
    for path in (left, other):
        path.write_bytes(b"half a film")
        os.utime(path, (0, 0))
    listed = clear_workspace(tmp_path, parts=("result",))
    assert listed["going"] == {str(tmp_path): [left.name]}
    clear_workspace(tmp_path, parts=("result",), really=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, "data_dst.mp4"]


def test_cancelling_leaves_nothing(tmp_path):
    workspace(tmp_path, sides=("dst",), frames=30)
    merge(tmp_path)
    cancel = Cancel()
    with pytest.raises(Cancelled):
        encode_result(
            tmp_path,
            provenance=BARE,
            progress=lambda event: cancel.set() if event.done == 5 else None,
            cancel=cancel,
        )
    assert not list(tmp_path.glob("*result*"))
    assert not list(tmp_path.glob(".result*"))
