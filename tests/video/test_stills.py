"""Pictures and folders of pictures, through the interface of videos."""

from __future__ import annotations

import math
import struct
import time
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from accel.core import ConfigError, InputError
from accel.video import save_stills
from accel.video.picture_header import read_header
from accel.video.read import Limits, open_video
from accel.video.save_stills import ImageWriter
from accel.video.stills import FolderReader, ImageReader
from tests.video.clips import make_clip, samples, times, transcode

ROTATE_90 = 6  # EXIF: to be turned by 90 degrees clockwise


def _photo(size=(160, 120), seed=0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def _exif(orientation: int = ROTATE_90) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "a maker"
    return exif


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp"])
def test_lossless_formats_give_back_every_pixel(tmp_path, name):
    photo = _photo()
    photo.save(tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    reader, writer = transcode(tmp_path / name, tmp_path / f"out_{name}", change=lambda f: f.planes)
    assert isinstance(reader, ImageReader)
    assert reader.info.is_image
    assert reader.info.frames == writer.frames == 1
    with Image.open(tmp_path / f"out_{name}") as out:
        assert np.array_equal(np.asarray(out.convert("RGB")), np.asarray(photo))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1"])
def test_png_of_every_mode(tmp_path, mode):
    photo = _photo().convert(mode)
    if mode == "RGBA":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    photo.save(tmp_path / "a.png")
    transcode(tmp_path / "a.png", tmp_path / "b.png", change=lambda f: f.planes)
    with Image.open(tmp_path / "b.png") as out:
        given, wanted = (np.asarray(i.convert("RGBA")).astype(int) for i in (out, photo))
        assert abs(given - wanted).max() <= (1 if mode in ("L", "LA") else 0)


@pytest.mark.parametrize("size", [(641, 280), (640, 281), (64, 48)])
def test_every_column_of_a_lossy_webp_with_alpha_is_written(tmp_path, size):
    photo = _photo(size).convert("RGBA")
    photo.putalpha(200)
    photo.save(tmp_path / "a.webp", quality=95)
    transcode(tmp_path / "a.webp", tmp_path / "b.png", change=lambda f: f.planes)
    with Image.open(tmp_path / "a.webp") as wanted, Image.open(tmp_path / "b.png") as out:
        difference = np.asarray(out.convert("RGBA")).astype(int) - np.asarray(wanted)
    assert abs(difference[..., 3]).max() <= 1
    assert abs(difference[:, -2:, :3]).mean() < 25  # chroma is enlarged by another filter


@pytest.mark.parametrize(
    "form", ["yuvj420p", "yuv420p", "yuv422p", "yuv444p", "gbrp", "yuv420p10le"]
)
def test_a_large_picture_in_strips_has_the_same_bytes(monkeypatch, form):
    import av

    picture = av.VideoFrame(322, 1030, form)
    make = np.random.default_rng(2)
    for plane in picture.planes:
        values = np.frombuffer(plane, np.uint8)
        values[:] = make.integers(0, 4 if form.endswith("10le") else 256, values.shape)
    frame = SimpleNamespace(layout=SimpleNamespace(shift_y=int("420" in form)), picture=picture)
    whole = np.asarray(save_stills._rgb_image(frame, (0, False)))
    monkeypatch.setattr(save_stills, "LARGE_PX", 1)
    assert np.array_equal(np.asarray(save_stills._rgb_image(frame, (0, False))), whole)
    turned = save_stills._rgb_image(frame, (90, True))
    assert np.array_equal(np.asarray(turned), np.rot90(whole[:, ::-1], -1))


@pytest.mark.parametrize("form", ["yuvj420p", "gbrp", "yuv422p"])
def test_a_large_picture_of_odd_sides_in_strips_is_nearly_the_same(monkeypatch, form):
    import av

    picture = av.VideoFrame(321, 1029, form)
    rows = np.arange(2048)[:, None] // 8
    for plane in picture.planes:
        values = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        values[:] = rows[: len(values)] * (1029 // len(values))
    frame = SimpleNamespace(layout=SimpleNamespace(shift_y=int("420" in form)), picture=picture)
    whole = np.asarray(save_stills._rgb_image(frame, (0, False))).astype(int)
    monkeypatch.setattr(save_stills, "LARGE_PX", 1)
    assert abs(np.asarray(save_stills._rgb_image(frame, (0, False))) - whole).max() <= 4


@pytest.mark.parametrize("large_px", [1 << 24, 1])
def test_png_of_sixteen_bits(tmp_path, monkeypatch, large_px):
    import av

    monkeypatch.setattr(save_stills, "LARGE_PX", large_px)
    deep = np.random.default_rng(1).integers(0, 65536, (279, 31, 3), dtype=np.uint16)
    context = av.CodecContext.create("png", "w")
    context.width, context.height, context.pix_fmt = 31, 279, "rgb48be"
    context.time_base = 1
    picture = av.VideoFrame.from_ndarray(deep, "rgb48le").reformat(format="rgb48be")
    (tmp_path / "a.png").write_bytes(b"".join(bytes(p) for p in context.encode(picture)))
    reader, _ = transcode(tmp_path / "a.png", tmp_path / "b.png", change=lambda f: f.planes)
    assert reader.layout.bits == 16
    assert samples(tmp_path / "b.png") == samples(tmp_path / "a.png")


@pytest.mark.parametrize("sampling", [0, 1, 2])
def test_jpeg_keeps_its_sampling_and_nearly_its_samples(tmp_path, sampling):
    _photo().save(tmp_path / "a.jpg", quality=92, subsampling=sampling)
    reader, _ = transcode(tmp_path / "a.jpg", tmp_path / "b.jpg")
    with open_video(tmp_path / "b.jpg") as after:
        assert after.info.pixel_format == reader.info.pixel_format
        assert after.layout == reader.layout
        new = next(iter(after)).planes
    old = next(iter(reader)).planes
    for plane, other in zip(old[:3], new[:3]):
        assert (plane.int() - other.int()).abs().float().mean() < 1


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_exif_and_profile_are_kept(tmp_path, name):
    profile = b"not really a colour profile"
    _photo().save(tmp_path / name, exif=_exif(), icc_profile=profile)
    reader, _ = transcode(tmp_path / name, tmp_path / f"out_{name}")
    assert reader.info.rotation == 90
    assert (reader.info.width, reader.info.height) == (160, 120)  # not turned
    with Image.open(tmp_path / f"out_{name}") as out:
        assert out.size == (160, 120)
        assert dict(out.getexif()) == dict(_exif())
        assert out.info["icc_profile"] == profile


def test_exif_behind_the_pixels_of_a_png_is_found_and_nothing_is_decoded_without(
    tmp_path, monkeypatch
):
    plain, behind = tmp_path / "plain.png", tmp_path / "behind.png"
    _photo().save(plain)
    data, exif = plain.read_bytes(), _exif(ROTATE_90).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(exif)) + b"eXIf" + exif
    end = data.rindex(b"IEND") - 4
    behind.write_bytes(data[:end] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + data[end:])
    assert read_header(behind, Limits())[:2] == (90, False)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert read_header(plain, Limits()) == (0, False, {})


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_means_what_pillow_means(tmp_path, orientation):
    from PIL import ImageOps

    photo = _photo((40, 24))
    photo.save(tmp_path / "a.png", exif=_exif(orientation))
    transcode(tmp_path / "a.png", tmp_path / "b.bmp")  # which has no EXIF, so pixels are turned
    with Image.open(tmp_path / "a.png") as image, Image.open(tmp_path / "b.bmp") as turned:
        assert np.array_equal(np.asarray(turned), np.asarray(ImageOps.exif_transpose(image)))


def test_a_rotated_video_gives_upright_pictures(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", rotation=-90, stamps=range(2))
    transcode(clip, tmp_path / "frames")
    with Image.open(tmp_path / "frames" / "000000.png") as image:
        assert image.size == (64, 96)


def test_folder_in_and_out(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in (10, 2, 1):
        _photo((40 + number, 30), seed=number).save(folder / f"{number}.png", exif=_exif(1))
    (folder / "notes.txt").write_text("passed over")
    sizes = []
    reader, _ = transcode(folder, tmp_path / "out", change=lambda f: sizes.append(f.planes.width))
    assert isinstance(reader, FolderReader)
    assert reader.info.is_folder
    assert reader.names == ["1.png", "2.png", "10.png"]
    assert sizes == [41, 42, 50]
    for name in reader.names:
        with Image.open(folder / name) as old, Image.open(tmp_path / "out" / name) as new:
            assert np.array_equal(np.asarray(old), np.asarray(new))
            assert dict(new.getexif()) == dict(old.getexif())


def test_folder_becomes_video(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        _photo(seed=number).save(folder / f"{number}.png")
    _, writer = transcode(folder, tmp_path / "out.mp4")
    assert len(times(tmp_path / "out.mp4")) == 3
    assert any("encoded as yuv" in note for note in writer.notes)
    with open_video(tmp_path / "out.mp4") as after:
        assert after.info.average_rate == 25
        assert after.info.color.matrix == 1
        assert after.info.color.range == 1


def test_a_failed_run_leaves_no_folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    _photo().save(folder / "0.png")
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(InputError, match=r"1\.png: must be a whole picture"):
        transcode(folder, tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_a_full_folder_is_not_written_into(tmp_path):
    _photo().save(tmp_path / "a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="must be new or empty"):
        transcode(tmp_path / "a.png", tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "keep"


def test_a_picture_holds_one_frame(tmp_path):
    clip = make_clip(tmp_path / "a.mp4", stamps=range(3))
    with pytest.raises(ConfigError, match="holds one picture"):
        transcode(clip, tmp_path / "b.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4"]


def test_painting_a_picture_changes_the_file_and_not_the_reader(tmp_path):
    _photo().save(tmp_path / "a.png")
    with open_video(tmp_path / "a.png") as reader:
        clean = next(iter(reader)).planes.clone()
        frame = next(iter(reader))
        frame.planes.c0.fill_(7)
        with ImageWriter(tmp_path / "b.png", reader) as writer:
            writer.write(frame)
        for plane, other in zip(next(iter(reader)).planes[:3], clean[:3]):
            assert torch.equal(plane, other)
    with Image.open(tmp_path / "b.png") as out:
        assert (np.asarray(out)[..., 1] == 7).all()


def test_animated_webp_is_refused(tmp_path):
    _photo().save(tmp_path / "a.webp", save_all=True, append_images=[_photo(seed=1)])
    with pytest.raises(InputError, match="animated WebP cannot be read"):
        open_video(tmp_path / "a.webp")


@pytest.mark.parametrize(
    ("name", "mode", "options", "bytes_each"),
    [
        ("a.png", "RGB", {}, 3),
        ("a.png", "P", {}, 4),
        ("a.png", "L", {}, 1.5),
        ("a.png", "I;16", {}, 3),
        ("a.tif", "RGBA", {}, 4),
        ("a.bmp", "L", {}, 4),
        ("a.jpg", "RGB", {"subsampling": 2}, 1.5),
        ("a.jpg", "RGB", {"subsampling": 0}, 3),
        ("a.jpg", "RGB", {"subsampling": 0, "progressive": True}, 4.5),
        ("a.jpg", "CMYK", {}, 4),
        ("a.webp", "RGB", {}, 1.5),
        ("a.webp", "RGB", {"lossless": True}, 4),
    ],
)
def test_what_a_picture_takes_is_told_before_it_is_decoded(
    tmp_path, name, mode, options, bytes_each
):
    Image.new(mode, (1024, 1024)).save(tmp_path / name, **options)
    enough = math.ceil(bytes_each)  # whole megabytes
    ImageReader(tmp_path / name, limits=Limits(max_picture_mb=enough))
    with pytest.raises(InputError, match=f"may take {enough - 1} MB once decoded"):
        ImageReader(tmp_path / name, limits=Limits(max_picture_mb=enough - 1))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_a_large_png_is_written_row_by_row(tmp_path, monkeypatch, mode):
    monkeypatch.setattr(save_stills, "LARGE_PX", 1)
    photo = _photo((333, 301)).convert(mode)
    photo.save(tmp_path / "a.png", exif=_exif(), icc_profile=b"a profile" * 9)
    reader, _ = transcode(tmp_path / "a.png", tmp_path / "b.png", change=lambda f: f.planes)
    assert reader.info.rotation == 90
    with Image.open(tmp_path / "b.png") as out:
        assert (np.asarray(out.convert(mode)) == np.asarray(photo)).all()
        assert dict(out.getexif()) == dict(_exif())
        assert out.info.get("icc_profile") == (None if mode == "L" else b"a profile" * 9)
    assert (tmp_path / "b.png").stat().st_size < 1.2 * (tmp_path / "a.png").stat().st_size * (
        3 if mode == "L" else 1
    )


@pytest.mark.parametrize("lossless", [False, True])
def test_a_webp_that_takes_too_much_to_make_is_refused(tmp_path, monkeypatch, lossless):
    _photo().save(tmp_path / "a.webp", lossless=lossless)
    monkeypatch.setattr(save_stills, "_HARD_WEBP_PX", 1)
    transcode(tmp_path / "a.webp", tmp_path / "b.webp", change=lambda f: f.planes)
    most = (1 << 30, 160 * 120 - 1) if lossless else (160 * 120 - 1, 1 << 30)
    monkeypatch.setattr(save_stills, "_MOST_WEBP_PX", most)
    with pytest.raises(ConfigError, match=r"c\.webp: a WebP like this may have 19199 pixels"):
        transcode(tmp_path / "a.webp", tmp_path / "c.webp")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.webp", "b.webp"]


def test_a_file_far_longer_than_its_picture_is_refused(tmp_path):
    _photo((64, 48)).save(tmp_path / "a.png")
    with open(tmp_path / "a.png", "ab") as file:
        file.truncate((2 << 20) + 1)
    with pytest.raises(InputError, match="a picture's file may have 2 MB, this one has more"):
        ImageReader(tmp_path / "a.png", limits=Limits(max_picture_mb=1))


def test_a_picture_of_endless_rows_is_refused(tmp_path):
    Image.new("1", (65536, 1)).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a frame's sides may have 65535 pixels, this one is 6553"):
        ImageReader(tmp_path / "a.png")


def test_limits_hold_for_pictures(tmp_path):
    _photo().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="a frame may have 100 pixels, this one is 160x120"):
        open_video(tmp_path / "a.png", limits=Limits(max_pixels=100))


JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"
GIF = b"GIF89a\x40\0\x40\0\0\0\0"
EMPTY_CHUNK = b"\0\0\0\0prVt\0\0\0\0"
ENDLESS = {
    "nothing": JPEG + bytes(2 << 20),
    "filling": JPEG + b"\xff" * (2 << 20),
    "segments": JPEG + b"\xff\xe5\0\2" * 10_001,
    "marks": JPEG + b"\xff\xd0" * 10_001,
    "chunks": b"\x89PNG\r\n\x1a\n" + EMPTY_CHUNK * ((1 << 17) + 1),
    "comment": GIF + b"!\xfe" + b"\1a" * (1 << 20) + b"\0",
    "extensions": GIF + b"!\xf9\4\0\0\0\0\0" * 10_001,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_a_header_that_never_ends_is_refused_at_once(kind, tmp_path):
    """Pillow goes over some of these byte by byte, or in time with the square of their length."""
    path = tmp_path / "a"
    path.write_bytes(ENDLESS[kind])
    start = time.process_time()
    with pytest.raises(InputError, match="must be a picture of fewer parts"):
        read_header(path, Limits())
    assert time.process_time() - start < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_usual_headers_are_read(kind, tmp_path):
    path = tmp_path / "a"
    Image.new("RGB", (24, 16)).save(path, kind)
    assert read_header(path, Limits())[:2] == (0, False)
