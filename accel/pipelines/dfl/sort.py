"""Put a faceset in order and thin it out: steps 4.2 and 5.2 of the workflow."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from accel.core import Cancel, ConfigError, InputError, Progress, ProgressCallback
from accel.faces.faceset import faces_in
from accel.faces.faceset_pak import NAME as PAK_NAME
from accel.faces.sort import (
    DEFAULT_TARGET,
    MODES,
    arrange,
    contact_sheet,
    measure_all,
    new_name,
    order,
    recover,
    trash_of,
)
from accel.pipelines.dfl.alone import alone
from accel.pipelines.dfl.made import made_in, remember, renamed
from accel.pipelines.dfl.save_frames import encode_picture
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.run_report import end_of_report
from accel.unfinished import write_whole


def sort_faces(
    place: Workspace | Path | str,
    side: str,
    by: str,
    *,
    target: int = DEFAULT_TARGET,
    sheet: Path | str | None = None,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Rename one side's aligned faces to 00000.jpg ... in the order of one of the modes.

    What does not stay goes to `aligned_trash`, damaged pictures too; nothing is deleted.
    target: faces that `final` and `final-fast` keep. sheet: PNG to write small pictures to, in
    order; by default `aligned_<side>_sheet.png` in the workspace.
    Raises InputError when there are no faces, ConfigError for an unknown mode.
    """
    workspace = open_workspace(place)
    if by not in MODES:
        raise ConfigError(f"sort: must be by one of {', '.join(MODES)}, got {by!r:.40}")
    sheet = Path(sheet) if sheet else workspace.root / f"aligned_{side}_sheet.png"
    _check_sheet(sheet)  # before a face is moved
    started = time.perf_counter()
    with alone(workspace.aligned(side)):
        recovered = recover(workspace.aligned(side))
        folder = workspace.need_faces(side)
        paths = _pictures(folder)
        measured, bad = measure_all(paths, progress=progress, cancel=cancel)
        if not measured:
            raise InputError(
                f"{folder}: must hold aligned faces, found {len(bad)} other pictures: {bad[0][1]}"
            )
        if cancel:
            cancel.check()
        ordered = order(measured, by, target)
        kept = [measured[i].path for i in ordered.kept]
        trash = [measured[i].path for i in ordered.trash] + [path for path, _ in bad]
        _arrange(folder, paths, kept, trash)
        notes = [f"{reason}; moved to the trash folder" for _, reason in bad]
        if kept:
            write_whole(sheet, encode_picture(contact_sheet(faces_in(folder)), ".png"))
        else:
            notes.append(f"no face stays with {by}: all are in the trash folder; nothing to show")
        if kept and sheet.resolve().parent == workspace.root.resolve():
            remember(workspace.root, [sheet.name])
    if progress:
        progress(Progress(stage="sort", done=len(paths), total=len(paths)))
    return {
        "command": "dfl sort",
        "workspace": str(workspace.root),
        "side": side,
        "by": by,
        "faces": len(kept),
        "trashed": len(ordered.trash),
        "bad": [{"file": path.name, "reason": reason} for path, reason in bad],
        "trash": str(trash_of(folder)),
        "recovered": recovered,
        "sheet": str(sheet) if kept else None,
        "notes": notes,
        **end_of_report(started),
    }


def _check_sheet(sheet: Path) -> None:
    if not sheet.parent.is_dir():
        raise ConfigError(f"{sheet}: the folder must exist, {sheet.parent} does not")
    if sheet.suffix.lower() != ".png" or sheet.is_dir():
        raise ConfigError(f"{sheet}: the contact sheet must have a name that ends in .png")


def _pictures(folder: Path) -> list[Path]:
    paths = faces_in(folder)
    if not paths:
        packed = (folder / PAK_NAME).exists()
        hint = "; run `unpack` first, the faces are in faceset.pak" if packed else ""
        raise InputError(f"{folder}: must hold aligned faces, found none{hint}")
    return paths


def _arrange(folder: Path, paths: list[Path], kept: list[Path], trash: list[Path]) -> None:
    """Rename the files, and follow them in the list of what was made here."""
    moved: dict[str, Path] = {}
    if set(made_in(folder)) >= set(paths):  # a killed run must not make them somebody else's
        remember(folder, [new_name(path, i) for i, path in enumerate(kept)])
    try:
        arrange(folder, kept, trash, moved)
    finally:
        renamed(folder, moved)
