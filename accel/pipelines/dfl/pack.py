"""A faceset as one file, faceset.pak, and back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accel.core import Cancel, ConfigError, InputError, Progress, ProgressCallback
from accel.faces.faceset import face_in, faces_in, read_face
from accel.faces.faceset_pak import NAME, open_pak, pack_folder, unpack
from accel.pipelines.dfl.alone import alone
from accel.pipelines.dfl.made import made_in, remember
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.run_report import end_of_report

TAIL = 4096  # bytes in which a picture's end is looked for


def pack_faces(
    place: Workspace | Path | str,
    side: str,
    *,
    keep: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Pack one side's aligned faces into `aligned/faceset.pak`, then remove the pictures.

    They are removed only once the pak was read back and every face in it equals its file.
    keep: leave the pictures. Where all is packed already, a note says so. Raises InputError for a
    picture that is no aligned face, ConfigError where an earlier pak has faces that are not among
    the pictures: they would be lost.
    """
    workspace = open_workspace(place)
    folder = workspace.need_faces(side)
    started = time.perf_counter()
    target, notes = folder / NAME, []
    with alone(folder):
        if _is_packed(folder):
            faces = len(open_pak(target).faces)
            notes.append(f"{target}: holds the faces already, there are no pictures beside it")
        else:
            faces = len(_pack(folder, keep, _watched(progress, cancel)))
    return {
        "command": "dfl pack",
        "workspace": str(workspace.root),
        "side": side,
        "pak": str(target),
        "faces": faces,
        "bytes": target.stat().st_size,
        "notes": notes,
        **end_of_report(started),
    }


def unpack_faces(
    place: Workspace | Path | str,
    side: str,
    *,
    keep: bool = False,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Write the faces of `aligned/faceset.pak` beside it, then remove the pak unless `keep`.

    It goes on where a killed run stopped, and undoes a `pack` that was killed while it removed
    pictures. A pak with faces that are cut short stays, and a note names one of them. Raises
    InputError for a pak that is damaged otherwise or lies about its lengths; nothing is left then.
    """
    workspace = open_workspace(place)
    folder = workspace.need_faces(side)
    pak = folder / NAME
    if not pak.exists():
        raise InputError(f"{pak}: must be there to be unpacked, found none")
    started = time.perf_counter()
    with alone(folder):
        was_made = pak in made_in(folder)
        paths = unpack(pak, progress=_watched(progress, cancel))
        if was_made:
            for parent in {path.parent for path in paths}:
                remember(parent, [path.name for path in paths if path.parent == parent])
        gone = [face.name for face in open_pak(pak).faces if face.end == face.begin]
        torn = [path.name for path in paths if not _is_whole(path)] + gone
        if not keep and not torn:
            pak.unlink()
    return {
        "command": "dfl unpack",
        "workspace": str(workspace.root),
        "side": side,
        "folder": str(folder),
        "faces": len(paths),
        "notes": [f"{pak}: {len(torn)} faces in it are cut short, such as {torn[0]}; it is kept"]
        if torn
        else [],
        **end_of_report(started),
    }


def _is_packed(folder: Path) -> bool:
    """Whether an earlier run did all there is to do."""
    if not (folder / NAME).is_file():
        return False
    return not any(faces_in(one) for one in (folder, *filter(Path.is_dir, folder.iterdir())))


def _pack(folder: Path, keep: bool, watch: ProgressCallback) -> list[Path]:
    """Returns the pictures that are in the pak."""
    _check_earlier(folder)
    target = pack_folder(folder, progress=watch)
    pak = open_pak(target)
    paths = [folder / (face.person or "") / face.name for face in pak.faces]
    for path, (_, data) in zip(paths, pak.pictures()):
        if path.read_bytes() != data:
            raise InputError(f"{path}: changed while it was packed; the pictures are kept")
    if set(paths) <= _made_of(paths):  # a pak of somebody else's pictures is theirs
        remember(folder, [NAME])
    if not keep:
        for path in paths:
            path.unlink()
        for person in sorted({path.parent for path in paths} - {folder}):
            if not any(person.iterdir()):
                person.rmdir()
    return paths


def first_type(folder: Path) -> str | None:
    """The face type of a folder's first face, packed or not; None where it cannot be told."""
    try:
        if (folder / NAME).is_file():
            pak = open_pak(folder / NAME)
            records = [face_in(pak.read(face)) for face in pak.faces[:1]]
        else:
            records = [read_face(path) for path in faces_in(folder)[:1]]
    except (InputError, OSError):
        return None
    return records[0].face_type if records else None


def beside_pak(folder: Path) -> list[str]:
    """A note where a pak and pictures lie side by side, of which training and merging take one."""
    pictures = faces_in(folder)
    if not (folder / NAME).is_file() or not pictures:
        return []
    return [
        f"{folder / NAME} is used, and not the {len(pictures)} pictures beside it; after changes to"
        " them remove it or pack again"
    ]


def _check_earlier(folder: Path) -> None:
    pak = folder / NAME
    if not pak.is_file():
        return
    faces = [face for face in open_pak(pak).faces if face.end > face.begin]
    lost = [face.name for face in faces if not (folder / (face.person or "") / face.name).is_file()]
    if lost:
        raise ConfigError(
            f"{pak}: holds {len(lost)} faces that no picture beside it is, such as {lost[0]};"
            " unpack it first, so that all are packed together"
        )


def _is_whole(path: Path) -> bool:
    """Whether a picture ends as its kind does; some have bytes behind their end."""
    with path.open("rb") as file:
        begin = file.read(2)
        file.seek(max(0, path.stat().st_size - TAIL))
        end = file.read(TAIL)
    return (begin == b"\xff\xd8" and b"\xff\xd9" in end) or (begin == b"\x89P" and b"IEND" in end)


def _made_of(paths: list[Path]) -> set[Path]:
    return {path for folder in {p.parent for p in paths} for path in made_in(folder)}


def _watched(progress: ProgressCallback | None, cancel: Cancel | None) -> ProgressCallback:
    """Progress that also looks at the cancel flag; packing cleans up after an exception."""

    def update(event: Progress) -> None:
        if cancel:
            cancel.check()
        if progress:
            progress(event)

    return update
