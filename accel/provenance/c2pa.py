"""Content Credentials: a signed statement of what was made, in the file or beside it.

The one module that knows the c2pa library. Its defaults fetch from the network and refuse C2PA's
own certificate use; both are set otherwise here. What is stated is in `statement`, what was read in
`credential`.

Source: C2PA technical specification 2.4.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, open_file
from accel.provenance.credential import Credential as Credential
from accel.provenance.credential import credential_of
from accel.provenance.keys import USES, Identity
from accel.provenance.statement import CONSENT as CONSENT
from accel.provenance.statement import ROLES, manifest
from accel.provenance.statement import SOURCE_TYPES as SOURCE_TYPES
from accel.provenance.statement import TASKS as TASKS
from accel.provenance.statement import Input as Input
from accel.provenance.statement import Statement as Statement

# c2pa-python takes e-mail protection alone unless told of document and claim signing.
_USES = "".join(f"{use}\n" for use in USES)
_LARGEST_HISTORY = 1 << 20  # bytes of an input's own credential that are carried along
_PIECE = 1 << 20


class CredentialError(ConfigError):
    """A credential could not be made, or does not read back as it was meant."""


def sidecar_of(path: Path) -> Path:
    """`film.mkv` -> `film.mkv.c2pa`, so that `film.webm` beside it keeps its own."""
    return path.with_name(f"{path.name}.c2pa")


def sign(
    path: Path,
    statement: Statement,
    identity: Identity,
    *,
    sidecar: Path | None = None,
    version: str = "",
) -> Credential:
    """Put a credential into a PNG, JPEG, WebP, MP4 or MOV, in place; beside any other file.

    The file is replaced at once, after the new one was read back and found to say what was meant.
    sidecar: where the credential goes that cannot be embedded; default `sidecar_of(path)`.
    Raises CredentialError, and then the file is as it was.
    """
    kind, embedded = media_type(path)
    scratch = path.with_name(f".{path.name}.signing")
    target = sidecar or sidecar_of(path)
    try:
        store = _sign(path, scratch if embedded else None, kind, statement, identity, version)
        got = _read(
            scratch if embedded else path, kind, None if embedded else store, [identity.root]
        )
        made = _check(got, statement, identity)
        if embedded:
            os.replace(scratch, path)
        else:
            side = target.with_name(f".{target.name}.writing")
            side.write_bytes(store)
            os.replace(side, target)
    finally:
        scratch.unlink(missing_ok=True)
    return made


def read(path: Path, *, anchors: Iterable[str] = ()) -> Credential | None:
    """Read a file's credential, embedded or in the `.c2pa` beside it; None when it has none.

    Beside `film.mkv`, `film.mkv.c2pa` comes first, then `film.c2pa` as other tools name it.

    anchors: PEM certificates of the roots to trust. Nothing is fetched.
    Raises InputError when the file cannot be read; damage of the credential is a `state`.
    """
    try:
        kind, may_hold = media_type(path)
        found = _read(path, kind, None, anchors) if may_hold else None
        if found is None and sidecar_of(path).is_file():
            return _read_beside(path, kind, sidecar_of(path), anchors)
        shared = path.with_suffix(".c2pa")
        if found is None and shared != path and shared.is_file():
            found = _read_beside(path, kind, shared, anchors)
            if not found.intact and _has_twin(path):
                return None  # it may well belong to the other file of this name
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    return found


def media_type(path: Path) -> tuple[str, bool]:
    """Tell by a file's first bytes its MIME type, and whether a credential fits inside it."""
    with open_file(path, "a picture or a film") as file:
        head = file.read(16)
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png", True
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg", True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp", True
    if head[4:8] == b"ftyp":
        return ("video/quicktime" if head[8:12] == b"qt  " else "video/mp4"), True
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "video/quicktime", True
    return "application/octet-stream", False


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


# --- writing ----------------------------------------------------------------------------------


def _context(anchors: Iterable[str] = (), version: str = "") -> Any:
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


def _sign(
    path: Path, scratch: Path | None, kind: str, statement: Statement, identity: Identity,
    version: str,
) -> bytes:  # fmt: skip
    import c2pa

    described = [_describe(one) for one in statement.inputs]
    info = c2pa.C2paSignerInfo(
        identity.algorithm.encode(), identity.certificates.encode(), identity.key, None
    )
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(
                manifest(statement, described, version), context=_context((), version)
            ) as b,
            open(path, "rb") as media,
        ):
            for index, one in enumerate(statement.inputs):
                _add_input(b, index, one, described[index])
            if scratch is None:
                b.set_no_embed()
                return bytes(b.sign(signer, kind, media, io.BytesIO()))
            with open(scratch, "w+b") as out:
                return bytes(b.sign(signer, kind, media, out))
    except c2pa.C2paError as error:
        raise CredentialError(f"the credential could not be made: {error}") from error


def _describe(one: Input) -> dict[str, Any]:
    """Hash an input, and sum up the credential that it carries itself."""
    described: dict[str, Any] = {"role": one.role, "sha256": one.sha256 or sha256_of(one.path)}
    earlier = None if one.path.is_dir() else read(one.path)
    if earlier is not None:
        described["credential"] = {
            "state": earlier.state,
            "generator": earlier.generator,
            "signer": earlier.signer,
            "sourceTypes": list(earlier.source_types),
        }
    return described


def _add_input(builder: Any, index: int, one: Input, described: Mapping[str, Any]) -> None:
    """Name an input as an ingredient; a target brings the history that it carries.

    A source's own credential may hold a picture of a face, so it is summed up in words instead.
    """
    ingredient = {
        "title": f"{one.role} {described['sha256'][:12]}",
        "relationship": ROLES[one.role],
        "label": f"input{index}",
        "instance_id": f"input{index}",
    }
    carries = one.role == "target" and "credential" in described
    if carries and _history_bytes(one.path) is not None:
        kind, _ = media_type(one.path)
        with open(one.path, "rb") as file:
            builder.add_ingredient(ingredient, kind, file)
    else:  # nothing in it that the library would carry along
        builder.add_ingredient(ingredient, "application/octet-stream", io.BytesIO(b"\0"))


def _history_bytes(path: Path) -> int | None:
    """Size of an embedded credential's JSON, a measure of its length; None when too long."""
    import c2pa

    kind, may_hold = media_type(path)
    if not may_hold:
        return None
    with (
        suppress(c2pa.C2paError),
        open(path, "rb") as file,
        c2pa.Reader(kind, file, context=_context()) as r,
    ):
        size = len(r.json())
        return size if size <= _LARGEST_HISTORY else None
    return None


def _check(made: Credential | None, statement: Statement, identity: Identity) -> Credential:
    wanted = "trusted" if identity.root else "valid"  # nobody's root is known of a lone leaf
    if made is None or made.state != wanted:
        why = "no credential" if made is None else f"{made.state} ({', '.join(made.reasons)})"
        raise CredentialError(f"a credential just written must read back as {wanted}, got {why}")
    got = (made.mark, made.run.get("task"), made.serial)
    meant = (statement.mark, statement.task, identity.serial)
    if got != meant:
        raise CredentialError(f"a credential just written must say {meant}, says {got}")
    return made


# --- reading ----------------------------------------------------------------------------------


def _read(path: Path, kind: str, store: bytes | None, anchors: Iterable[str]) -> Credential | None:
    import c2pa

    beside = store is not None
    try:
        with open(path, "rb") as file, c2pa.Reader(
            kind, file, store, context=_context(anchors)
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
    if side.stat().st_size > 64 * _PIECE:
        return Credential(state="unreadable", reasons=("sidecar.tooLarge",), beside=True)
    found = _read(path, kind, side.read_bytes(), anchors)
    return found or Credential(state="unreadable", reasons=("sidecar.empty",), beside=True)


def _has_twin(path: Path) -> bool:
    """Whether another file beside `path` differs from it in the suffix alone."""
    return any(
        one.stem == path.stem and one.name != path.name and one.suffix != ".c2pa"
        for one in path.parent.iterdir()
    )
