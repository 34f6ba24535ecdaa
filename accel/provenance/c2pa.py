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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, open_file, read_file
from accel.provenance.credential import Credential as Credential
from accel.provenance.credential import credential_of
from accel.provenance.keys import USES, Identity
from accel.provenance.statement import CONSENT as CONSENT
from accel.provenance.statement import ROLES, manifest
from accel.provenance.statement import SOURCE_TYPES as SOURCE_TYPES
from accel.provenance.statement import TASKS as TASKS
from accel.provenance.statement import Input as Input
from accel.provenance.statement import Statement as Statement
from accel.unfinished import fresh, scratch_of

# c2pa-python takes e-mail protection alone unless told of document and claim signing.
_USES = "".join(f"{use}\n" for use in USES)
_LARGEST_HISTORY = 1 << 20  # bytes of an input's own credential that are carried along
_MOST_PICTURES = 200  # that are redacted in it
_PIECE = 1 << 20
_UNKNOWN = "application/octet-stream"
# Kinds of file that other tools put credentials into, by their first bytes.
_OF_OTHERS = {
    b"II*\0": "image/tiff", b"MM\0*": "image/tiff", b"GIF8": "image/gif",
    b"\0\0\0\x0cJXL ": "image/jxl", b"fLaC": "audio/flac", b"ID3": "audio/mpeg",
}  # fmt: skip
_IN_RIFF = {b"AVI ": "video/avi", b"WAVE": "audio/wav"}
_PICTURES = ("c2pa.thumbnail", "c2pa.embedded-data")  # assertions that show what a file shows


class CredentialError(ConfigError):
    """A credential could not be made, or does not read back as it was meant."""


def sidecar_of(path: Path) -> Path:
    """`film.mkv` -> `film.mkv.c2pa`, so that `film.webm` beside it keeps its own."""
    return path.with_name(f"{path.name}.c2pa")


def beside(sidecar: Path) -> Path | None:
    """The file that a credential lies beside; None when there is none, or it is uncertain which."""
    own = sidecar.with_suffix("")
    if own.is_file():
        return own
    twins = [one for one in sidecar.parent.iterdir() if _is_twin(one, sidecar) and one.is_file()]
    return twins[0] if len(twins) == 1 else None


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
    _, embedded = media_type(path)
    target = path if embedded else sidecar or sidecar_of(path)
    scratch = fresh(scratch_of(target))
    inputs = [_describe(one) for one in statement.inputs]
    try:
        try:
            made = _sign(path, scratch, statement, inputs, identity, version)
        except CredentialError:
            if all(one.history is None for one in inputs):
                raise
            # A stranger's history may be one that the library reads and cannot carry along.
            inputs = [replace(one, history=None) for one in inputs]
            made = _sign(path, scratch, statement, inputs, identity, version)
        os.replace(scratch, target)
    finally:
        scratch.unlink(missing_ok=True)
    return made


def read(path: Path, *, anchors: Iterable[str] = ()) -> Credential | None:
    """Read a file's credential, embedded or in the `.c2pa` beside it; None when it has none.

    Beside `film.mkv`, `film.mkv.c2pa` comes first, then `film.c2pa` as other tools name it.

    anchors: PEM certificates of the roots to trust. Nothing is fetched.
    Raises InputError when the file cannot be read; damage of the credential is a `state`.
    """
    found = _find(path, anchors)
    return found[0] if found else None


def media_type(path: Path) -> tuple[str, bool]:
    """Tell by a file's first bytes its MIME type, and whether we put a credential inside it.

    `application/octet-stream` is what the library cannot look into.
    """
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
    if head[:4] == b"RIFF" and head[8:12] in _IN_RIFF:
        return _IN_RIFF[head[8:12]], False
    others = (kind for begins, kind in _OF_OTHERS.items() if head.startswith(begins))
    return next(others, _UNKNOWN), False


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
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


@dataclass(frozen=True, kw_only=True)
class _History:
    """A credential that an input carries, ready to be carried along.

    store: its bytes when it lies beside the file. results: what was found when it was checked.
    pictures: addresses of its assertions that hold pictures.
    """

    kind: str
    label: str
    store: bytes | None
    results: Mapping[str, Any]
    pictures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Described:
    """An input: what is told of it in our own assertion, and its own history."""

    path: Path
    told: Mapping[str, Any]
    history: _History | None


def _sign(
    path: Path, target: Path, statement: Statement, inputs: list[_Described], identity: Identity,
    version: str,
) -> Credential:  # fmt: skip
    """Write the signed file, or the credential alone, to `target`; read it back and check it."""
    import c2pa

    kind, embedded = media_type(path)
    described = [
        {**one.told, "history": "carried" if one.history else "summed up"}
        if "credential" in one.told else one.told
        for one in inputs
    ]  # fmt: skip
    # One file may be both target and source.
    pictures = dict.fromkeys(p for one in inputs if one.history for p in one.history.pictures)
    told = manifest(statement, described, version, tuple(pictures))
    info = c2pa.C2paSignerInfo(
        identity.algorithm.encode(), identity.certificates.encode(), identity.key, None
    )
    try:
        with (
            c2pa.Signer.from_info(info) as signer,
            c2pa.Builder(told, context=_context((), version)) as builder,
            open(path, "rb") as media,
        ):
            for index, one in enumerate(inputs):
                _add_input(builder, index, one)
            if embedded:
                with open(target, "w+b") as out:
                    builder.sign(signer, kind, media, out)
            else:
                builder.set_no_embed()
                target.write_bytes(builder.sign(signer, _UNKNOWN, media, io.BytesIO()))
    except c2pa.C2paError as error:
        raise CredentialError(f"the credential could not be made: {error}") from error
    if embedded:
        return _check(_read(target, kind, None, [identity.root]), statement, identity)
    store = target.read_bytes()
    return _check(_read(path, _UNKNOWN, store, [identity.root]), statement, identity)


def _describe(one: Input) -> _Described:
    """Hash an input, sum up the credential that it carries, and get hold of that itself."""
    told: dict[str, Any] = {"role": one.role, "sha256": one.sha256 or sha256_of(one.path)}
    found = None if one.path.is_dir() else _find(one.path, ())
    if found is None:
        return _Described(path=one.path, told=told, history=None)
    earlier, beside = found
    told["credential"] = {
        "state": earlier.state,
        "generator": earlier.generator,
        "signer": earlier.signer,
        "sourceTypes": list(earlier.source_types),
    }
    return _Described(path=one.path, told=told, history=_history(one.path, beside))


def _history(path: Path, beside: Path | None) -> _History | None:
    """The credential of an input; None when it is damaged or too long to be carried along."""
    import c2pa

    kind, _ = media_type(path)
    try:
        store = _store(beside) if beside else None
    except InputError:
        return None
    with (
        suppress(
            c2pa.C2paError, TypeError, AttributeError, LookupError, ValueError, RecursionError
        ),
        open(path, "rb") as file,
        c2pa.Reader(kind, file, store, context=_context()) as reader,
    ):
        text = reader.json()  # its length is a measure of the history's
        if len(text) > _LARGEST_HISTORY:
            return None
        told, parts = json.loads(text), json.loads(reader.detailed_json())["manifests"]
        pictures = tuple(
            f"self#jumbf=/c2pa/{label}/c2pa.assertions/{name}"
            for label, one in parts.items()
            for name in one["assertion_store"]
            if name.startswith(_PICTURES)
        )
        if len(pictures) <= _MOST_PICTURES:
            return _History(
                kind=kind, label=told["active_manifest"], store=store,
                results=told.get("validation_results") or {}, pictures=pictures,
            )  # fmt: skip
    return None


def _add_input(builder: Any, index: int, one: _Described) -> None:
    """Name an input as an ingredient that brings along the history that it has."""
    role, history = one.told["role"], one.history
    ingredient: dict[str, Any] = {
        "title": f"{role} {one.told['sha256'][:12]}",
        "relationship": ROLES[role],
        "label": f"input{index}",
        "instance_id": f"input{index}",
    }
    if history and history.store is None:
        with open(one.path, "rb") as file:
            builder.add_ingredient(ingredient, history.kind, file)
        return
    if history and history.store is not None:
        name = f"history{index}"
        builder.add_resource(name, io.BytesIO(history.store))
        ingredient |= {
            "manifest_data": {"format": "application/c2pa", "identifier": name},
            "active_manifest": history.label,
            "validation_results": history.results,
        }
    # There is nothing in this stream that the library would carry along.
    builder.add_ingredient(ingredient, _UNKNOWN, io.BytesIO(b"\0"))


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


def _find(path: Path, anchors: Iterable[str]) -> tuple[Credential, Path | None] | None:
    """A file's credential, and the file in which it lies when that is another."""
    try:
        kind, _ = media_type(path)
        found = None if kind == _UNKNOWN else _read(path, kind, None, anchors)
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
    try:
        found = _read(path, kind, _store(side), anchors)
    except InputError:
        return Credential(state="unreadable", reasons=("sidecar.unreadable",), beside=True)
    return found or Credential(state="unreadable", reasons=("sidecar.empty",), beside=True)


def _store(side: Path) -> bytes:
    """What lies in a sidecar. Raises InputError for one that is too large, or no file."""
    return read_file(side, 64 * _PIECE, "a credential")


def _has_twin(path: Path) -> bool:
    """Whether another file beside `path` differs from it in the suffix alone."""
    return any(_is_twin(one, path) for one in path.parent.iterdir())


def _is_twin(one: Path, other: Path) -> bool:
    return one.stem == other.stem and one.name != other.name and one.suffix != ".c2pa"
