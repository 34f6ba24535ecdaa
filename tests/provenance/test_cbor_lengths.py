"""A credential whose text claims to be gigabytes is not shown to the library, which believes it."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from accel.provenance.c2pa import Statement, read, sign
from accel.provenance.cbor_lengths import claims_too_much
from accel.provenance.keys import local_identity

WORDS = b"undeclared"  # of a signed statement, with a head of one byte
CLAIM = b"\x7a\x40\x00\x00\x00" + b"undec"  # a gigabyte of text, in as many bytes

PEAK = """
import sys
from pathlib import Path
from accel.provenance.c2pa import read
found = read(Path(sys.argv[1]))
print(found.state, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


@pytest.fixture(params=["png", "jpg", "webp", "mp4"])
def signed(request, tmp_path):
    path = tmp_path / f"a.{request.param}"
    if request.param == "mp4":
        from tests.video.clips import make_clip

        make_clip(path)
    else:
        noise = np.random.default_rng(5).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
    sign(path, Statement(task="generate"), local_identity())
    return path


def test_a_true_credential_is_shown(signed):
    assert not claims_too_much(signed)
    assert read(signed).intact


def test_one_that_claims_a_gigabyte_is_not(signed):
    data = signed.read_bytes()
    at = data.index(WORDS) - 1
    signed.write_bytes(data[:at] + CLAIM + data[at + len(CLAIM) :])
    assert claims_too_much(signed)
    told = subprocess.run(
        [sys.executable, "-c", PEAK, str(signed)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told[0] == "unreadable"
    assert int(told[1]) < 600_000  # KiB


def test_it_is_not_carried_along_either(signed, tmp_path):
    """Of an input with such a credential the hash is named, and nothing of it is read."""
    from accel.provenance.c2pa import Input

    data = signed.read_bytes()
    at = data.index(WORDS) - 1
    signed.write_bytes(data[:at] + CLAIM + data[at + len(CLAIM) :])
    made = tmp_path / "made.png"
    Image.new("RGB", (64, 64)).save(made)
    one = Input(path=signed, role="target", sha256="0" * 64)
    sign(made, Statement(task="edit", inputs=(one,)), local_identity())
    assert read(made).intact


def test_a_sidecar_is_looked_at_too(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"film")
    store = b"\0\0\0\x20cbor\xa1\x61a\x5b\0\0\0\0\x40\0\0\0"
    assert claims_too_much(tmp_path / "a.bin", store)
    assert not claims_too_much(tmp_path / "a.bin", b"\0\0\0\x0ccbor\xa1\x61a\x41b")


@pytest.mark.parametrize(
    ("value", "is_too_much"),
    [
        (b"\x62ab", False),
        (b"\x63ab", True),
        (b"\x9f\x62ab\xff\x7a\xff\xff\xff\xff", False),  # behind the end: not part of it
        (b"\xbf\x61a\x7a\xff\xff\xff\xff", True),
        (b"\xd8\x20\x7a\xff\xff\xff\xff", True),  # under a tag
        (b"\x82\x01\x5b" + b"\xff" * 8, True),
        (b"\x1c" + b"\x7a\xff\xff\xff\xff", False),  # no CBOR
        (b"\x9b" + b"\xff" * 8, False),  # a list takes no room before its values
        (b"\xff", False),
        (b"", False),
    ],
)
def test_values(tmp_path, value, is_too_much):
    assert claims_too_much(tmp_path, b"....cbor" + value) is is_too_much


def test_a_jpeg_and_a_gif_cut_it_up(tmp_path):
    box = b"\0\0\1\0jumb" + b"\0\0\0\x20cbor\xa1\x61a\x7a\x40\0\0\0"
    cut = [box[8:15], box[15:]]
    segments = b"".join(
        b"\xff\xeb" + (len(part) + 18).to_bytes(2, "big") + b"JP\0\1"
        + number.to_bytes(4, "big") + box[:8] + part
        for number, part in enumerate(cut, 1)
    )  # fmt: skip
    jpeg = tmp_path / "a.jpg"
    jpeg.write_bytes(b"\xff\xd8" + segments + b"\xff\xda")
    assert claims_too_much(jpeg)
    blocks = b"".join(bytes([len(part)]) + part for part in cut)
    gif = tmp_path / "a.gif"
    gif.write_bytes(b"GIF89a\1\0\1\0\0\0\0" + b"!\xff" + blocks + b"\0;")
    assert claims_too_much(gif)
