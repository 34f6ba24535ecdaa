"""Read Content Credentials, in a file or beside it, and say in what state they are.

The c2pa library fetches from the network if nobody tells it not to, and refuses C2PA's own
certificate use; both are set otherwise here, for signing too. What was read is a `Credential`.

Source: C2PA technical specification 2.4.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from accel.core import InputError, read_file
from accel.provenance.cbor_lengths import claims_too_much
from accel.provenance.credential import Credential, credential_of
from accel.provenance.keys import USES
from accel.provenance.media import UNKNOWN, media_type

# c2pa-python takes e-mail protection alone unless told of document and claim signing.
_USES = "".join(f"{use}\n" for use in USES)
_PIECE = 1 << 20
MOST_PARTS = 100_000  # of a picture


def sidecar_of(path: Path) -> Path:
    """`film.mkv` -> `film.mkv.c2pa`, so that `film.webm` beside it keeps its own."""
    return path.with_name(f"{path.name}.c2pa")


def media_of(sidecar: Path) -> Path | None:
    """The file that a credential lies beside; None when there is none, or it is uncertain which."""
    own = sidecar.with_suffix("")
    if own.is_file():
        return own
    twins = [one for one in sidecar.parent.iterdir() if _is_twin(one, sidecar) and one.is_file()]
    return twins[0] if len(twins) == 1 else None


def read(path: Path, *, anchors: Iterable[str] = ()) -> Credential | None:
    """Read a file's credential, embedded or in the `.c2pa` beside it; None when it has none.

    Beside `film.mkv`, `film.mkv.c2pa` comes first, then `film.c2pa` as other tools name it.

    anchors: PEM certificates of the roots to trust. Nothing is fetched.
    Raises InputError when the file cannot be read; damage of the credential is a `state`.
    """
    found = find(path, anchors)
    return found[0] if found else None


def context(anchors: Iterable[str] = (), version: str = "") -> Any:
    """The library's settings: nothing is fetched, and `anchors` are the roots to trust."""
    import c2pa

    settings: dict[str, Any] = {
        "verify": {
            "remote_manifest_fetch": False,
            "ocsp_fetch": False,
            "verify_after_sign": False,  # `sign` reads back itself, with our root
        },
        "core": {"allowed_network_hosts": []},
        "builder": {
            "thumbnail": {"enabled": False},  # or a third person's face rides in every output
            "claim_generator_info": {"name": "accel", "version": version or "0"},
        },
        "trust": {"trust_config": _USES},
    }
    if trusted := "".join(anchors):
        settings["trust"]["user_anchors"] = trusted
    return c2pa.Context.from_dict(settings)


def find(path: Path, anchors: Iterable[str]) -> tuple[Credential, Path | None] | None:
    """A file's credential, and the file in which it lies when that is another."""
    try:
        kind, _ = media_type(path)
        if not _has_few_parts(path):
            raise InputError(f"{path}: must be of {MOST_PARTS} parts at most")
        found = None if kind == UNKNOWN else read_one(path, kind, None, anchors)
        if found is not None:
            return found, None
        own, shared = sidecar_of(path), path.with_suffix(".c2pa")
        if own.is_file():
            return _read_beside(path, kind, own, anchors), own
        if shared != path and shared.is_file():
            found = _read_beside(path, kind, shared, anchors)
            # One that does not fit may well belong to the other file of this name.
            return (found, shared) if found.intact or not _has_twin(path) else None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return None


def _has_few_parts(path: Path) -> bool:
    """Of a PNG, JPEG, WebP or GIF: c2pa-rs keeps a list of them."""
    with open(path, "rb") as file:
        head = file.read(13)
        if head.startswith(b"GIF8"):
            return _has_few_blocks(file, head)
        head = head[:12]
        is_png, is_jpeg = head.startswith(b"\x89PNG"), head.startswith(b"\xff\xd8")
        if not (is_png or is_jpeg or head[:4] + head[8:] == b"RIFFWEBP"):
            return True
        at = 2 if is_jpeg else 8 if is_png else 12
        for _ in range(MOST_PARTS):
            file.seek(at)
            if len(head := file.read(8)) < 4 or head[4:] == b"IEND":
                return True
            if is_jpeg:
                if head[0] != 0xFF or head[1] == 0xDA:
                    return True
                lone = head[1] in (0, 1, 0xFF) or 0xD0 <= head[1] <= 0xD9
                at += 1 if head[1] == 0xFF else 2 if lone else 2 + int.from_bytes(head[2:4], "big")
            elif is_png:
                at += 12 + int.from_bytes(head[:4], "big")
            else:
                size = int.from_bytes(head[4:], "little")
                at += 8 + size + size % 2
    return False


def _has_few_blocks(file: BinaryIO, head: bytes) -> bool:
    """Of a GIF; ten times as many small ones, of which the blocks are made."""
    _skip_colours(file, head[10:11])
    small = 0
    for _ in range(MOST_PARTS):
        kind = file.read(1)
        if kind == b"!":
            file.seek(1, 1)
        elif kind == b",":
            _skip_colours(file, file.read(9)[8:])
            file.seek(1, 1)
        else:
            return True
        while (size := file.read(1)) and size[0]:
            file.seek(size[0], 1)
            small += 1
            if small > 10 * MOST_PARTS:
                return False
    return False


def _skip_colours(file: BinaryIO, flags: bytes) -> None:
    if flags and flags[0] & 0x80:
        file.seek(3 << (flags[0] % 8 + 1), 1)


def read_one(
    path: Path, kind: str, store: bytes | None, anchors: Iterable[str]
) -> Credential | None:
    """The credential in a file of a kind, or in `store`, which lies beside it."""
    import c2pa

    beside = store is not None
    if claims_too_much(path, store):
        return Credential(state="unreadable", reasons=("malformed",), beside=beside)
    try:
        with open(path, "rb") as file, c2pa.Reader(
            kind, file, store, context=context(anchors)
        ) as reader:  # fmt: skip
            state = str(reader.get_validation_state() or "")
            told = json.loads(reader.json())
    except c2pa.C2paError.ManifestNotFound:
        return None
    except c2pa.C2paError as error:
        code, _, text = (part.strip() for part in str(error).partition(":"))
        if not beside and "Remote" not in code and not _holds(path, b"c2pa"):
            return None  # the picture or film is damaged, and no credential lies in what is left
        reason = text[:80] if code in ("", "Other") and text else code or type(error).__name__
        return Credential(state="unreadable", reasons=(reason,), beside=beside)
    except (ValueError, RecursionError) as error:  # text that is no JSON or no UTF-8
        return Credential(state="unreadable", reasons=(type(error).__name__,), beside=beside)
    try:
        return credential_of(told, state, beside)
    except (TypeError, AttributeError, LookupError, ValueError):
        # A damaged store can parse and yet hold a list where the specification says a map.
        return Credential(state="unreadable", reasons=("malformed",), beside=beside)


def _holds(path: Path, word: bytes) -> bool:
    """Whether some bytes are in a file."""
    before = b""
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            if word in before + piece:
                return True
            before = piece[1 - len(word) :]
    return False


def _read_beside(path: Path, kind: str, side: Path, anchors: Iterable[str]) -> Credential:
    try:
        found = read_one(path, kind, store_of(side), anchors)
    except InputError:
        return Credential(state="unreadable", reasons=("sidecar.unreadable",), beside=True)
    return found or Credential(state="unreadable", reasons=("sidecar.empty",), beside=True)


def store_of(side: Path) -> bytes:
    """What lies in a sidecar. Raises InputError for one that is too large, or no file."""
    return read_file(side, 64 * _PIECE, "a credential")


def _has_twin(path: Path) -> bool:
    """Whether another file beside `path` differs from it in the suffix alone."""
    return any(_is_twin(one, path) for one in path.parent.iterdir())


def _is_twin(one: Path, other: Path) -> bool:
    return one.stem == other.stem and one.name != other.name and one.suffix != ".c2pa"
