"""XMP: written where readers look, the media untouched, read from files of other tools."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from accel.core import InputError
from accel.provenance.c2pa import Statement, read, sign
from accel.provenance.xmp import _packet, _png_chunk, declare, declared
from accel.weights.assets import asset
from tests.provenance.film import encode, film


def picture(path: Path, mode: str = "RGB", **options) -> Path:
    Image.open(asset("astronaut.png")).convert(mode).resize((61, 47)).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("png", "RGB"), ("png", "RGBA"), ("jpg", "RGB"), ("webp", "RGB"), ("webp", "RGBA")],
)
def test_pictures_say_what_they_are(kind, mode, tmp_path):
    path = picture(tmp_path / f"a.{kind}", mode)
    before = np.asarray(Image.open(path))
    assert declared(path) == []
    assert declare(path, "generate")
    assert declare(path, "generate")
    (found,) = declared(path)
    assert found.source_type == "trainedAlgorithmicMedia"
    assert found.involves_ai
    with Image.open(path) as after:
        assert (np.asarray(after) == before).all()
        assert "trainedAlgorithmicMedia" in str(after.info)


def test_exif_stays(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = picture(tmp_path / "a.jpg", exif=exif)
    declare(path, "edit")
    assert Image.open(path).getexif()[0x0112] == 6


def test_films_say_it_and_still_play(tmp_path, identity):
    path = tmp_path / "a.mp4"
    path.write_bytes(encode(film(3, 64, 96)))
    assert declare(path, "face_swap")
    assert declared(path)[0].source_type == "compositeWithTrainedAlgorithmicMedia"
    sign(path, Statement(task="generate"), identity)
    assert read(path, anchors=[identity.root]).state == "trusted"
    assert declared(path)[0].source_type == "compositeWithTrainedAlgorithmicMedia"
    with av.open(str(path)) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3


def test_other_files_are_left_alone(tmp_path):
    path = tmp_path / "a.mkv"
    path.write_bytes(b"\x1aE\xdf\xa3" + bytes(100))
    assert not declare(path, "generate")
    assert path.stat().st_size == 104


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_damaged_pictures_are_refused(kind, tmp_path):
    path = picture(tmp_path / f"a.{kind}")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="is damaged"):
        declare(path, "generate")
    assert path.stat().st_size == 100


def test_a_film_whose_boxes_do_not_add_up_is_refused(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(encode(film(3, 64, 96))[:-7])
    with pytest.raises(InputError, match="do not add up"):
        declare(path, "generate")


def test_notes_of_other_tools_are_seen(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", "a cat\nSteps: 20, Sampler: Euler, Seed: 1")
    path = picture(tmp_path / "a.png", pnginfo=notes)
    assert [one.where for one in declared(path)] == ["generation parameters in PNG text"]


PARAMETERS = "a cat\nSteps: 20, Sampler: Euler, Seed: 1"
TEXTS = {  # of PNG files: what other tools write, and what is said of it
    "compressed": ("parameters", PARAMETERS, True, "generation parameters in PNG text"),
    "no Latin": ("parameters", "고양이 " + PARAMETERS, False, "generation parameters in PNG text"),
    "packed": ("parameters", "고양이 " + PARAMETERS, True, "generation parameters in PNG text"),
    "workflow": ("workflow", '{"nodes": []}', False, "ComfyUI workflow in PNG text"),
    "China's": ("AIGC", '{"Label": "1"}', False, "AIGC field (China)"),
}


@pytest.mark.parametrize("which", TEXTS)
@pytest.mark.parametrize("last", [False, True])
def test_every_text_chunk_is_read(which, last, tmp_path):
    keyword, text, packed, said = TEXTS[which]
    notes = PngImagePlugin.PngInfo()
    notes.add_text(keyword, text, zip=packed)
    path = picture(tmp_path / "a.png", pnginfo=notes)
    if last:  # behind more picture than is searched for other words
        data = path.read_bytes()
        end = data.index(b"IDAT") - 4
        room = _png_chunk(b"vpAg", bytes(9 << 20))
        path.write_bytes(data[:33] + data[end:-12] + room + data[33:end] + room + data[-12:])
    assert [one.where for one in declared(path)] == [said]


def test_a_compressed_packet_is_read_and_a_bomb_is_not_unpacked(tmp_path):
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("XML:com.adobe.xmp", _packet("digitalCapture").decode(), zip=True)
    notes.add_text("parameters", "x" * (50 << 20), zip=True)
    assert [one.source_type for one in declared(picture(tmp_path / "a.png", pnginfo=notes))] == [
        "digitalCapture"
    ]


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
def test_parameters_in_exif_are_read(order, tmp_path):
    exif = Image.Exif()
    exif[0x9286] = b"UNICODE\0" + PARAMETERS.encode(order)
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path, exif=exif)
    assert [one.where for one in declared(path)] == ["generation parameters in EXIF"]


def test_a_credential_alone_declares_nothing_here(tmp_path, identity):
    path = picture(tmp_path / "a.png")
    sign(path, Statement(task="generate"), identity)
    assert declared(path) == []


def test_camera_pictures_are_not_taken_for_ai(tmp_path):
    packet = b'<x:xmpmeta><a Iptc4xmpExt:DigitalSourceType="http://x/digitalCapture"/></x:xmpmeta>'
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG", xmp=packet)
    (tmp_path / "a.jpg").write_bytes(out.getvalue())
    (found,) = declared(tmp_path / "a.jpg")
    assert found.source_type == "digitalCapture"
    assert not found.involves_ai


def test_words_without_end_are_told_of_in_part(tmp_path):
    path = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(path)
    kinds = b"".join(b" DigitalSourceType='%05d'" % i for i in range(2000))
    path.write_bytes(path.read_bytes() + b"<x:xmpmeta" + kinds + b"></x:xmpmeta>")
    assert [one.source_type for one in declared(path)] == [f"{i:05}" for i in range(20)]
