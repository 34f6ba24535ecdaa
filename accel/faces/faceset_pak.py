"""A folder of aligned faces in one file, `faceset.pak`, as DeepFaceLab packs it.

Little-endian: version 1 and the table's length as u64, the table (a pickle of one dictionary a
face), n + 1 offsets as u64 counted from the end of the offsets, then the n files back to back.
DeepFaceLab writes the last offset from the start of the file instead, so it points beyond the end;
readers cut it there.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from accel.core import InputError, Progress, open_file, read_file
from accel.faces.faceset import (
    MAX_FACE_BYTES,
    FaceRecord,
    dict_from_polygons,
    face_in,
    faces_in,
    picture_shape,
)
from accel.unfinished import whole, write_whole
from accel.weights.pickle_machine import Limits
from accel.weights.pickle_writer import dump_pickle
from accel.weights.pickles import SampleType, load_pickle

NAME = "faceset.pak"
VERSION = 1
HEAD = struct.Struct("<QQ")
MAX_TABLE_BYTES = 384 << 20
MAX_FACES = 500_000
# Some 650 steps and 72 containers a face.
TABLE_LIMITS = Limits(opcodes=48_000_000, containers=6_000_000, items=50_000_000)


@dataclass(frozen=True)
class Packed:
    """One face: its entry in the table, and where its file's bytes lie in the pak."""

    entry: dict[str, Any]
    name: str  # of the file; no folder
    person: str | None  # the folder it lay in, where there were several people
    begin: int
    end: int


@dataclass(frozen=True)
class Pak:
    """An opened faceset.pak. table: the pickle as it was, so that it can be written again."""

    path: Path
    faces: list[Packed]
    table: bytes

    def read(self, face: Packed) -> bytes:
        with self.path.open("rb") as file:
            return _piece(file, face)

    def pictures(self) -> Iterator[tuple[Packed, bytes]]:
        """Every face with its file's bytes, in order; one is held at a time."""
        with self.path.open("rb") as file:
            for face in self.faces:
                yield face, _piece(file, face)


def open_pak(path: Path) -> Pak:
    """Read a pak's table and where its faces lie.

    Of a file that breaks off, as a download does, the faces behind its end have no bytes.
    Raises InputError, one line, for another version, a table that is no table, lying lengths.
    """
    with open_file(path, "a faceset.pak") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            raise InputError(f"{path}: must be a faceset.pak, got {size} bytes")
        version, length = HEAD.unpack(head)
        if version != VERSION:
            raise InputError(f"{path}: must be a faceset.pak of version {VERSION}, got {version}")
        if length > min(size - HEAD.size, MAX_TABLE_BYTES):
            raise InputError(f"{path}: table must lie in the file's {size} bytes, got {length}")
        table = file.read(length)
        entries = load_pickle(table, str(path), TABLE_LIMITS)
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"{path}: table must be a list of faces")
        if len(entries) > MAX_FACES:
            raise InputError(f"{path}: must hold {MAX_FACES} faces at most, got {len(entries)}")
        raw = file.read(8 * (len(entries) + 1))
        start = file.tell()
    if len(raw) != 8 * (len(entries) + 1):
        raise InputError(f"{path}: cut short within the offsets of {len(entries)} faces")
    offsets = np.frombuffer(raw, "<u8")
    if (offsets[1:] < offsets[:-1]).any() or offsets[0] != 0:
        raise InputError(f"{path}: offsets must rise from 0")
    if entries and size == start:
        raise InputError(f"{path}: cut short before its first face")
    ends = np.minimum(offsets, np.uint64(size - start)).astype(np.int64)
    places = zip(entries, ends[:-1].tolist(), ends[1:].tolist())
    faces = [Packed(e, *_names(e, path), start + begin, start + end) for e, begin, end in places]
    return Pak(path, faces, table)


def write_pak(
    path: Path,
    faces: list[tuple[dict[str, Any], bytes | Path]],  # table entry, file or its bytes
    *,
    table: bytes | None = None,
    byte_compatible: bool = True,
) -> None:
    """Write a pak; the old one stays until the new one is whole.

    table: the pickle of a Pak whose entries have not changed, written as it was.
    byte_compatible: write the last offset as DeepFaceLab does, from the start of the file.
    """
    if table is None:
        table = dump_pickle([entry for entry, _ in faces])
    with whole(path) as partial, partial.open("wb") as file:
        file.write(HEAD.pack(VERSION, len(table)) + table)
        at = file.tell()
        file.write(bytes(8 * (len(faces) + 1)))
        start, offsets = file.tell(), []
        for _, content in faces:
            offsets.append(file.tell() - start)
            file.write(content if isinstance(content, bytes) else content.read_bytes())
        offsets.append(file.tell() - (0 if byte_compatible else start))
        file.seek(at)
        file.write(struct.pack(f"<{len(offsets)}Q", *offsets))


def pack_folder(
    folder: Path, target: Path | None = None, progress: Callable[[Progress], None] | None = None
) -> Path:
    """Pack a folder of aligned faces into `folder/faceset.pak`; its pictures stay.

    Where the folder holds folders, each is one person. Raises InputError for a picture without
    face metadata, or when there are no faces.
    """
    # A link may lead to pictures elsewhere, which are removed once they are packed.
    inner = sorted(folder.iterdir()) if folder.is_dir() else []
    people = [path for path in inner if path.is_dir() and not path.is_symlink()]
    listed: list[tuple[str | None, Path]] = [(None, path) for path in faces_in(folder)]
    listed += [(person.name, path) for person in people for path in faces_in(person)]
    if not listed:
        raise InputError(f"{folder}: must hold aligned faces, found none")
    faces: list[tuple[dict[str, Any], bytes | Path]] = []
    for done, (person, path) in enumerate(listed, 1):
        data = read_file(path, MAX_FACE_BYTES, "an aligned face")
        record = face_in(data, str(path))
        name = str(path.relative_to(folder))
        faces.append((entry_of(record, name, picture_shape(data, str(path)), person), path))
        if progress:
            progress(Progress(stage="pack", done=done, total=len(listed)))
    target = target or folder / NAME
    write_pak(target, faces)
    return target


def unpack(
    pak: Path, folder: Path | None = None, progress: Callable[[Progress], None] | None = None
) -> list[Path]:
    """Write a pak's files into a folder (by default the pak's own); return their paths.

    Names are taken without their folders, so that no file lands elsewhere. Files that are there
    already, as a killed call leaves them, stay. Faces behind the end of a pak that breaks off are
    left out. Raises InputError if two faces have one name or a
    file of that name is another picture; nothing new is left then.
    """
    opened, folder = open_pak(pak), folder or pak.parent
    faces = [face for face in opened.faces if face.end > face.begin]
    targets = [folder / (face.person or "") / face.name for face in faces]
    twice = len(targets) - len(set(targets))
    if twice:
        raise InputError(f"{pak}: every face must have its own name, got {twice} more than once")
    there = set()
    for target, face in zip(targets, faces):
        if target.parent != folder and target.parent.is_symlink():
            raise InputError(f"{target.parent}: must be a folder to unpack into, is a link")
        if target.exists() or target.is_symlink():
            is_file = target.is_file() and not target.is_symlink()
            if not is_file or target.read_bytes() != opened.read(face):
                raise InputError(f"{target}: exists; remove it before unpacking")
            there.add(target)
    written: list[Path] = []
    try:
        for done, (target, face) in enumerate(zip(targets, faces), 1):
            if target not in there:
                target.parent.mkdir(parents=True, exist_ok=True)
                write_whole(target, opened.read(face))
                written.append(target)
            if progress:
                progress(Progress(stage="unpack", done=done, total=len(targets)))
    except BaseException:  # a full disk or Ctrl-C: half a faceset looks like a whole one
        for target in written:
            target.unlink(missing_ok=True)
        raise
    return targets


def entry_of(
    record: FaceRecord, name: str, shape: tuple[int, int, int], person: str | None = None
) -> dict[str, Any]:
    """A face's entry in a pak's table, keys in DeepFaceLab's order."""
    mask = record.xseg_mask
    return {
        "sample_type": SampleType.FACE,
        "filename": name,
        "face_type": record.face_type.code,
        "shape": shape,
        "landmarks": record.landmarks.tolist(),
        "seg_ie_polys": dict_from_polygons(record.polygons),
        "xseg_mask": None,
        "xseg_mask_compressed": None if mask is None else np.frombuffer(mask, np.uint8),
        "eyebrows_expand_mod": record.eyebrows_expand_mod or 1.0,
        "source_filename": record.source_filename,
        "person_name": person,
    }


def _piece(file: Any, face: Packed) -> bytes:
    file.seek(face.begin)
    data: bytes = file.read(face.end - face.begin)
    return data


def _names(entry: dict[str, Any], path: Path) -> tuple[str, str | None]:
    """File name and person, neither with a folder: a pak must not say where its files go."""
    filename, person = entry.get("filename"), entry.get("person_name")
    if not isinstance(filename, str) or not isinstance(person, str | None):
        raise InputError(f"{path}: a face's filename must be a name, got {type(filename).__name__}")
    name = _last(filename)
    kept = None if person is None else _last(person)
    if not name or kept == "" or "\0" in name + (kept or ""):
        raise InputError(f"{path}: a face's filename must be a name, got {filename!r:.80}")
    return name, kept


def _last(name: str) -> str:
    last = PurePosixPath(PureWindowsPath(name).name).name
    return "" if last in (".", "..") else last
