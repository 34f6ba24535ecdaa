"""A flipped byte never changes what a credential says, and never ends in a traceback."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import cv2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accel.pipelines.verify import verify_file
from accel.provenance.c2pa import Input, Statement, read, sidecar_of, sign
from accel.provenance.keys import Identity, local_identity
from accel.provenance.ledger import Ledger
from accel.provenance.watermark import Mark
from accel.provenance.xmp import declare
from tests.provenance.film import encode, film, portrait

MARK = "c0ffee123456"
KINDS = ("png", "jpg", "webp", "mp4", "mkv.c2pa")


@cache
def identity() -> Identity:
    return local_identity(Path(mkdtemp()))


@cache
def signed(kind: str) -> tuple[Path, bytes, tuple[int, int]]:
    """A signed file, the bytes to be flipped, and where its credential lies in them."""
    folder = Path(mkdtemp())
    source = folder / "source.jpg"
    cv2.imwrite(str(source), portrait()[:64, :64])
    path = folder / f"out.{kind.split('.')[0]}"
    if kind in ("png", "jpg", "webp"):
        cv2.imwrite(str(path), cv2.resize(portrait(), (96, 96)))
    else:
        mark, frames = Mark(MARK), film(3, 96, 160)
        for planes in frames:
            mark.add(planes)
        path.write_bytes(encode(frames, container="mp4" if kind == "mp4" else "matroska"))
    declare(path, "face_swap")
    inputs = (Input(path=source), Input(path=source, role="source"))
    statement = Statement(task="face_swap", inputs=inputs, mark=MARK, consent="licensed")
    sign(path, statement, identity(), version="1.2.3")
    flipped = sidecar_of(path) if kind.endswith(".c2pa") else path
    data = flipped.read_bytes()
    start = data.index(b"jumb") - 4
    return path, data, (start, start + int.from_bytes(data[start : start + 4], "big"))


def meaning(path: Path):
    """What a reader is told; None when it is told not to believe it."""
    found = read(path, anchors=[identity().root])
    if found is None or not found.intact:
        return None
    return (
        found.signer, found.serial, found.generator, found.actions, found.source_types, found.mark,
        str(found.run), str(found.inputs), str(found.history),
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_flipped_byte_changes_no_meaning(kind, data):
    path, whole, (start, stop) = signed(kind)
    flipped = sidecar_of(path) if kind.endswith(".c2pa") else path
    flipped.write_bytes(whole)
    said = meaning(path)
    assert said is not None
    inside = st.integers(start, min(stop, len(whole)) - 1)
    at = data.draw(st.one_of(inside, st.integers(0, len(whole) - 1)))
    changed = bytearray(whole)
    changed[at] ^= data.draw(st.integers(1, 255))
    flipped.write_bytes(changed)
    assert meaning(path) in (None, said)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_damaged_file_is_one_clear_answer(kind, data):
    """Flipped, cut or repeated bytes: an answer in both languages, and nothing is believed new."""
    path, whole, _ = signed(kind)
    flipped = sidecar_of(path) if kind.endswith(".c2pa") else path
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        how = data.draw(st.sampled_from(("flip", "cut", "repeat")))
        if how == "flip":
            changed[at] ^= data.draw(st.integers(1, 255))
        elif how == "cut":
            del changed[at : at + data.draw(st.integers(1, 500))]
        else:
            changed[at:at] = changed[at : at + data.draw(st.integers(1, 500))]
        changed = changed or bytearray(b"\0")
    flipped.write_bytes(changed)
    report = verify_file(path, anchors=[identity().root], ledger=Ledger(path.parent / "none"))
    assert report.status in range(5)
    assert report.text("en")
    assert report.text("ko")
