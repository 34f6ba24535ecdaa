"""Content Credentials: a signed statement of what was made, in the file or beside it.

What is stated is in `statement`; reading, which signing ends with, is in `c2pa_read`.

Source: C2PA technical specification 2.4.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError
from accel.provenance.c2pa_read import context, find, read_one, store_of
from accel.provenance.c2pa_read import read as read
from accel.provenance.c2pa_read import sidecar_of as sidecar_of
from accel.provenance.cbor_lengths import claims_too_much
from accel.provenance.credential import Credential as Credential
from accel.provenance.keys import Identity
from accel.provenance.media import UNKNOWN, media_type, sha256_of
from accel.provenance.statement import CONSENT as CONSENT
from accel.provenance.statement import ROLES, manifest
from accel.provenance.statement import SOURCE_TYPES as SOURCE_TYPES
from accel.provenance.statement import TASKS as TASKS
from accel.provenance.statement import Input as Input
from accel.provenance.statement import Statement as Statement
from accel.unfinished import fresh, placed, scratch_of

_LARGEST_HISTORY = 1 << 20  # bytes of an input's own credential that are carried along
_MOST_PICTURES = 200  # that are redacted in it
_PICTURES = ("c2pa.thumbnail", "c2pa.embedded-data")  # assertions that show what a file shows


class CredentialError(ConfigError):
    """A credential could not be made, or does not read back as it was meant."""


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
            c2pa.Builder(told, context=context(version=version)) as builder,
            open(path, "rb") as media,
        ):
            for index, one in enumerate(inputs):
                _add_input(builder, index, one)
            if embedded:
                _sign_into(target, builder, signer, kind, media)
            else:
                builder.set_no_embed()
                target.write_bytes(builder.sign(signer, UNKNOWN, media, io.BytesIO()))
    except c2pa.C2paError as error:
        raise CredentialError(f"the credential could not be made: {error}") from error
    if embedded:
        return _check(read_one(target, kind, None, [identity.root]), statement, identity)
    store = target.read_bytes()
    return _check(read_one(path, UNKNOWN, store, [identity.root]), statement, identity)


class _Disk(io.FileIO):
    """A new file that knows why it could not be written; the library says only that it was not."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _sign_into(target: Path, builder: Any, signer: Any, kind: str, media: Any) -> None:
    import c2pa

    disk = _Disk(target, "w+")
    with placed(target):
        try:
            with io.BufferedRandom(disk) as out:
                builder.sign(signer, kind, media, out)
        except c2pa.C2paError:
            if disk.error is not None:
                raise disk.error from None
            raise


def _describe(one: Input) -> _Described:
    """Hash an input, sum up the credential that it carries, and get hold of that itself."""
    told: dict[str, Any] = {"role": one.role, "sha256": one.sha256 or sha256_of(one.path)}
    found = None if one.path.is_dir() else find(one.path, ())
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
        store = store_of(beside) if beside else None
    except InputError:
        return None
    if claims_too_much(path, store):
        return None
    with (
        suppress(
            c2pa.C2paError, TypeError, AttributeError, LookupError, ValueError, RecursionError
        ),
        open(path, "rb") as file,
        c2pa.Reader(kind, file, store, context=context()) as reader,
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
    builder.add_ingredient(ingredient, UNKNOWN, io.BytesIO(b"\0"))


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
