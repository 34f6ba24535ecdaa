"""Aligned pictures and paks: what is written is read, what is broken is refused in one line."""

from __future__ import annotations

import errno
import struct
import time
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.core import ConfigError, InputError
from accel.faces import faceset_pak
from accel.faces.face_types import FaceType
from accel.faces.faceset import (
    FaceRecord,
    Polygon,
    dict_from,
    face_in,
    metadata_of,
    picture_shape,
    read_face,
    segments,
    with_face,
)
from accel.weights.pickle_writer import dump_pickle
from accel.weights.pickles import load_pickle


def picture(shade=90, size=(24, 32)):
    y, x = np.mgrid[: size[0], : size[1]]
    pixels = np.stack([x * 5, y * 7, np.full_like(x, shade)], -1).astype(np.uint8)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def record(**changes):
    points = np.arange(136.0).reshape(68, 2) / 7
    values = {
        "face_type": FaceType.WHOLE,
        "landmarks": points,
        "source_filename": "00001.png",
        "source_rect": (1, 2, 30, 40),
        "source_landmarks": points + 100,
        "matrix": np.array([[1.5, 0.1, -3], [-0.1, 1.5, 4]]),
        "eyebrows_expand_mod": 1.0,
        "polygons": [
            Polygon(True, np.array([[0, 0], [9, 0], [9, 9]], np.float32)),
            Polygon(False, np.ones((3, 2), np.float32)),
        ],
        "xseg_mask": cv2.imencode(".png", np.eye(9, dtype=np.uint8))[1].tobytes(),
        "extra": {"from_a_later_version": [1, 2]},
    }
    return FaceRecord(**(values | changes))


def plain(face):
    """Something that == compares, with every number in it."""
    return dump_pickle(dict_from(face))


def test_record_and_picture_survive():
    jpeg = picture()
    marked = with_face(jpeg, record())
    assert plain(face_in(marked)) == plain(record())
    assert (cv2.imdecode(np.frombuffer(marked, np.uint8), 1)
            == cv2.imdecode(np.frombuffer(jpeg, np.uint8), 1)).all()  # fmt: skip
    assert picture_shape(marked) == (24, 32, 3)


def test_writing_again_replaces():
    once = with_face(picture(), record())
    other = record(face_type=FaceType.HEAD, polygons=[], xseg_mask=None)
    twice = with_face(once, other)
    assert face_in(twice).face_type is FaceType.HEAD
    assert [mark for mark, *_ in segments(twice)].count(0xEF) == 1
    assert with_face(twice, record()) == once


def test_only_what_is_known_is_written():
    face = FaceRecord(face_type=FaceType.FULL, landmarks=np.zeros((68, 2)))
    assert list(dict_from(face)) == ["face_type", "landmarks"]


def test_layout_is_the_documented_one():
    """Read with nothing but the layout: APP0 first, one APP15 behind the APPn, a pickled dict."""
    marked = with_face(picture(), record())
    assert marked[2:4] == b"\xff\xe0"
    at = 4 + int.from_bytes(marked[4:6], "big")
    assert marked[at : at + 2] == b"\xff\xef"
    length = int.from_bytes(marked[at + 2 : at + 4], "big")
    found = load_pickle(marked[at + 4 : at + 2 + length])
    assert found["face_type"] == "whole_face"
    assert len(found["landmarks"]) == 68
    assert found["image_to_face_mat"].shape == (2, 3)
    assert found["source_rect"] == [1, 2, 30, 40]
    assert found["seg_ie_polys"]["polys"][1]["type"] == 0


def test_a_jpeg_without_app0_gets_one():
    jpeg = picture()
    bare = jpeg[:2] + jpeg[4 + int.from_bytes(jpeg[4:6], "big") :]
    marked = with_face(bare, record())
    assert marked[2:4] == b"\xff\xe0"
    assert plain(face_in(marked)) == plain(record())


def test_too_much_metadata():
    with pytest.raises(ConfigError, match="65533 bytes at most"):
        with_face(picture(), record(xseg_mask=bytes(65_000)), "a.jpg")


def png_with(payload: bytes, spoil: bool = False) -> bytes:
    png = cv2.imencode(".png", np.zeros((5, 7, 3), np.uint8))[1].tobytes()
    chunk = b"fcWp" + payload
    chunk = struct.pack(">I", len(payload)) + chunk + struct.pack(">I", zlib.crc32(chunk) + spoil)
    return png[:-12] + chunk + png[-12:]


def test_old_png_form_is_read():
    data = png_with(dump_pickle(dict_from(record(extra={"relighted": True}))))
    assert face_in(data).extra == {"relighted": True}
    assert picture_shape(data) == (5, 7, 3)
    with pytest.raises(InputError, match="checksum"):
        face_in(png_with(b"x", spoil=True))
    assert metadata_of(cv2.imencode(".png", np.zeros((5, 7), np.uint8))[1].tobytes()) is None
    with pytest.raises(InputError, match="cut short"):
        face_in(data[:200])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"face_type": "elbow"}, "face_type must be one of"),
        ({"face_type": None}, "face_type must be one of"),
        ({"landmarks": [[1.0, 2.0]] * 67}, r"landmarks must be \[68, 2\]"),
        ({"landmarks": [[float("nan"), 2.0]] * 68}, "landmarks must be"),
        ({"landmarks": None}, "landmarks must be there"),
        ({"landmarks": "many"}, "landmarks must be"),
        ({"source_rect": [1, 2, 3]}, "source_rect"),
        ({"image_to_face_mat": np.eye(3)}, "image_to_face_mat"),
        ({"source_filename": 7}, "source_filename"),
        ({"eyebrows_expand_mod": "wide"}, "eyebrows_expand_mod"),
        ({"seg_ie_polys": {"polys": 3}}, "list of polygons"),
        ({"seg_ie_polys": {"polys": [{"type": 5, "pts": [[1, 2]]}]}}, "type must be 0 or 1"),
        ({"seg_ie_polys": {"polys": [{"type": 1, "pts": [[1, 2, 3]]}]}}, "pts"),
        ({"xseg_mask": np.zeros((3, 3), np.uint8)}, "xseg_mask"),
        ({"xseg_mask": "mask"}, "xseg_mask"),
    ],
)
def test_refuses_metadata_that_does_not_fit(changes, why):
    values = dict_from(record()) | changes
    with pytest.raises(InputError, match=why) as caught:
        face_in(png_with(dump_pickle(values)), "x.png")
    assert str(caught.value).startswith("x.png: ")
    assert "\n" not in str(caught.value)


def test_refuses_what_is_no_aligned_face(tmp_path):
    for data, why in [
        (b"", "JPEG or PNG"),
        (b"GIF89a", "JPEG or PNG"),
        (picture(), "without face metadata"),
        (with_face(picture(), record())[:3000], "cut short"),
        (b"\xff\xd8\xff\xe0\x00\x01", "damaged"),
        (png_with(dump_pickle([1])), "must be a dictionary"),
    ]:
        path = tmp_path / "face.jpg"
        path.write_bytes(data)
        with pytest.raises(InputError, match=why):
            read_face(path)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**30), st.integers(0, 255), st.booleans())
def test_damaged_pictures_are_read_or_refused(at, value, cut):
    data = bytearray(MARKED)
    at %= len(data)
    if cut:
        del data[at:]
    else:
        data[at] = value
    try:
        face_in(bytes(data))
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017


MARKED = with_face(picture(), record())


@pytest.fixture
def folder(tmp_path):
    aligned = tmp_path / "aligned"
    aligned.mkdir()
    for i in range(4):
        face = record(source_filename=f"{i:05d}.png", **({"xseg_mask": None} if i % 2 else {}))
        (aligned / f"{i:05d}_0.jpg").write_bytes(with_face(picture(10 * i, (24 + i, 32)), face))
    return aligned


def test_pak_round_trip_is_byte_identical(folder, tmp_path):
    pak = faceset_pak.pack_folder(folder)
    out = tmp_path / "out"
    written = faceset_pak.unpack(pak, out)
    assert [p.name for p in written] == sorted(p.name for p in folder.glob("*.jpg"))
    for path in written:
        original = (folder / path.name).read_bytes()
        # The last file runs to the pak's end, as the offset that is too large says.
        assert path.read_bytes() == original
    assert faceset_pak.pack_folder(out).read_bytes() == pak.read_bytes()


def test_a_full_disk_is_told_with_the_paks_name(folder, monkeypatch):
    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "read_bytes", full)
    with pytest.raises(OSError, match=r"faceset\.pak"):
        faceset_pak.write_pak(folder / "faceset.pak", [({}, folder / "00000_0.jpg")])
    assert not list(folder.glob("*pak*"))


def test_an_opened_pak_is_written_again_byte_for_byte(folder, tmp_path):
    pak = faceset_pak.pack_folder(folder)
    opened = faceset_pak.open_pak(pak)
    copy = tmp_path / "copy.pak"
    pieces = [(face.entry, data) for face, data in opened.pictures()]
    faceset_pak.write_pak(copy, pieces, table=opened.table)
    assert copy.read_bytes() == pak.read_bytes()
    faceset_pak.write_pak(copy, pieces)  # the table made anew from what was read
    assert copy.read_bytes() == pak.read_bytes()


def test_last_offset(folder):
    pak = faceset_pak.pack_folder(folder)
    data = pak.read_bytes()
    (length,) = struct.unpack_from("<Q", data, 8)
    offsets = struct.unpack_from("<5Q", data, 16 + length)
    start = 16 + length + 40
    assert offsets[-1] == len(data)  # from the start of the file: beyond the end by `start`
    opened = faceset_pak.open_pak(pak)
    faceset_pak.write_pak(pak, [(f.entry, d) for f, d in opened.pictures()], byte_compatible=False)
    assert struct.unpack_from("<5Q", pak.read_bytes(), 16 + length)[-1] == len(data) - start
    again = faceset_pak.open_pak(pak)
    assert [d for _, d in again.pictures()] == [d for _, d in opened.pictures()]


def test_entries_have_the_documented_keys(folder):
    opened = faceset_pak.open_pak(faceset_pak.pack_folder(folder))
    entry = opened.faces[0].entry
    assert list(entry) == [
        "sample_type", "filename", "face_type", "shape", "landmarks", "seg_ie_polys", "xseg_mask",
        "xseg_mask_compressed", "eyebrows_expand_mod", "source_filename", "person_name",
    ]  # fmt: skip
    assert entry["face_type"] == 4
    assert entry["shape"] == (24, 32, 3)


def test_people_keep_their_folders(folder, tmp_path):
    (folder / "anna").mkdir()
    (folder / "00003_0.jpg").rename(folder / "anna" / "00003_0.jpg")
    pak = faceset_pak.pack_folder(folder, tmp_path / "people.pak")
    written = faceset_pak.unpack(pak, tmp_path / "out")
    assert tmp_path / "out" / "anna" / "00003_0.jpg" in written


def lying(folder, change):
    pak = faceset_pak.pack_folder(folder)
    data = bytearray(pak.read_bytes())
    change(data, *struct.unpack_from("<Q", data, 8))
    pak.write_bytes(data)
    return pak


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda d, n: struct.pack_into("<Q", d, 0, 2), "version 1, got 2"),
        (lambda d, n: struct.pack_into("<Q", d, 8, 2**60), "table must lie"),
        (lambda d, n: struct.pack_into("<Q", d, 8, n - 40), "pickle"),
        (lambda d, n: struct.pack_into("<Q", d, 16 + n + 8, 2**50), "offsets must rise"),
        (lambda d, n: struct.pack_into("<Q", d, 16 + n + 16, 1), "offsets must rise"),
        (lambda d, n: struct.pack_into("<Q", d, 16 + n, 5), "offsets must rise"),
        (lambda d, n: d.__delitem__(slice(16 + n + 9, None)), "cut short"),
        (lambda d, n: d.__delitem__(slice(10, None)), "must be a faceset.pak"),
    ],
)
def test_refuses_a_pak_that_lies(folder, change, why):
    with pytest.raises(InputError, match=why):
        faceset_pak.open_pak(lying(folder, change))


@pytest.mark.parametrize(
    "name", ["../../evil.jpg", "/etc/evil.jpg", "C:\\evil.jpg", "a\\..\\evil.jpg"]
)
def test_files_stay_in_the_folder(folder, tmp_path, name):
    opened = faceset_pak.open_pak(faceset_pak.pack_folder(folder))
    entry = opened.faces[0].entry | {"filename": name, "person_name": "../up"}
    pak = tmp_path / "evil.pak"
    faceset_pak.write_pak(pak, [(entry, opened.read(opened.faces[0]))])
    assert faceset_pak.unpack(pak, tmp_path / "out") == [tmp_path / "out" / "up" / "evil.jpg"]


@pytest.mark.parametrize("name", ["..", "", ".", "a/..", 7])
def test_refuses_names_that_are_none(folder, tmp_path, name):
    entry = faceset_pak.open_pak(faceset_pak.pack_folder(folder)).faces[0].entry
    faceset_pak.write_pak(tmp_path / "evil.pak", [(entry | {"filename": name}, b"x")])
    with pytest.raises(InputError, match="must be a name"):
        faceset_pak.open_pak(tmp_path / "evil.pak")


def test_unpacking_overwrites_nothing(folder):
    pak = faceset_pak.pack_folder(folder)
    assert all(path.exists() for path in faceset_pak.unpack(pak))  # the same bytes are there
    one = next(folder.glob("*.jpg"))
    one.write_bytes(b"edited")
    with pytest.raises(InputError, match="exists"):
        faceset_pak.unpack(pak)
    assert one.read_bytes() == b"edited"
    empty = folder.parent / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="must hold aligned faces"):
        faceset_pak.pack_folder(empty)


def test_unpacking_follows_no_link(folder, tmp_path):
    pak = faceset_pak.pack_folder(folder)
    out = tmp_path / "out"
    out.mkdir()
    (out / faceset_pak.open_pak(pak).faces[0].name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="exists"):
        faceset_pak.unpack(pak, out)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("more", [b"\xff" * (8 << 20), b"\xff\xfe\0\2" * 20_000, b"\xff\x01\0\4xx"])
def test_segments_without_end_or_of_marks_that_have_none(more):
    """Such as decoders step over where a length is read here, so that they see another size."""
    jpeg = picture()
    start = time.process_time()
    with suppress(InputError):
        assert picture_shape(jpeg[:2] + more + jpeg[2:]) == picture_shape(jpeg)
    assert time.process_time() - start < 2
