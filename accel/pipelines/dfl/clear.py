"""Empty a workspace of what was made in it: step 1 of the workflow."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accel.core import ConfigError
from accel.faces.sort import trash_of
from accel.pipelines.dfl.alone import LOCK
from accel.pipelines.dfl.made import LIST_NAME, made_in
from accel.pipelines.dfl.workspace import SIDES, Workspace, open_workspace
from accel.pipelines.run_report import end_of_report
from accel.training.options import MODELS
from accel.unfinished import leftovers
from accel.video.sniff import FILM_SUFFIXES

PARTS = ("frames", "aligned", "merged", "model", "result")


@dataclass(frozen=True)
class Going:
    """What clearing takes: files, and how many of each folder stay because others made them."""

    files: list[Path]
    staying: dict[Path, int]

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in self.files)


def clear_workspace(
    place: Workspace | Path | str,
    *,
    parts: tuple[str, ...] = PARTS,
    really: bool = False,
) -> dict[str, Any]:
    """Remove what this engine made; the report lists it. Films and other files stay.

    parts: some of frames, aligned, merged, model, result. really: without it nothing is removed.
    """
    started = time.perf_counter()
    workspace = open_workspace(place)
    going = list_made(workspace, parts)
    size, removed = going.size, 0
    if really:
        for path in going.files:
            path.unlink(missing_ok=True)
            removed += path.name != LIST_NAME
        for folder in sorted(folders(workspace, parts), key=lambda p: -len(p.parts)):
            if folder != workspace.root and folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
    return {
        "command": "dfl clear",
        "workspace": str(workspace.root),
        "parts": list(parts),
        "going": _by_folder(going.files),
        "staying": {str(folder): count for folder, count in going.staying.items() if count},
        "bytes": size,
        "removed": removed,
        "is_done": really,
        "notes": [],
        **end_of_report(started),
    }


def list_made(workspace: Workspace, parts: tuple[str, ...] = PARTS) -> Going:
    """What would go, folder by folder."""
    files: list[Path] = []
    staying: dict[Path, int] = {}
    for folder in folders(workspace, parts):
        here = [path for path in made_in(folder) if _belongs(path, workspace, parts)]
        if folder == workspace.root and "result" in parts:  # of runs that were killed
            films = {workspace.result, *(path for path in here if path.suffix in FILM_SUFFIXES)}
            here = [left for film in sorted(films) for left in leftovers(film)] + here
        if folder == workspace.model:
            here = [path for path in sorted(folder.glob(f".*{LOCK}")) if _is_lock(path)] + here
        files += here
        if folder != workspace.root:
            others = {p for p in folder.iterdir() if p.is_file()} - set(here)
            staying[folder] = len(others)
    return Going(files, staying)


def folders(workspace: Workspace, parts: tuple[str, ...]) -> list[Path]:
    """The folders that the parts are in, those that are there."""
    unknown = set(parts) - set(PARTS)
    if unknown:
        raise ConfigError(
            f"clear: parts must be some of {', '.join(PARTS)}, got {', '.join(sorted(unknown))}"
        )
    found: list[Path] = []
    for side in SIDES:
        aligned, frames = workspace.aligned(side), workspace.frames(side)
        if "aligned" in parts:
            people = sorted(p for p in aligned.iterdir() if p.is_dir()) if aligned.is_dir() else []
            found += [*people, aligned, trash_of(aligned), workspace.aligned_debug(side)]
        if "frames" in parts:
            found.append(frames)
    if "merged" in parts:
        found += [workspace.merged, workspace.merged_mask]
    if "model" in parts:
        model = workspace.model
        inner = sorted(p for p in model.rglob("*") if p.is_dir()) if model.is_dir() else []
        found += [*inner, model]
    if "result" in parts or "aligned" in parts:
        found.append(workspace.root)
    root = workspace.root.resolve()
    return [  # never through a link: what lies behind it may be anything
        folder
        for folder in found
        if folder.is_dir() and folder.resolve() == root / folder.relative_to(workspace.root)
    ]


def _belongs(path: Path, workspace: Workspace, parts: tuple[str, ...]) -> bool:
    """In the root lie results and contact sheets side by side; elsewhere folder and part agree."""
    if path.parent != workspace.root:
        return True
    is_sheet = path.name.startswith("aligned_")
    if path.name == LIST_NAME:
        return "result" in parts and "aligned" in parts
    return ("aligned" if is_sheet else "result") in parts


def _is_lock(path: Path) -> bool:
    """What a training that was killed left."""
    kind = path.stem.rpartition("_")[2]
    return kind in MODELS.values() and path.is_file() and not path.stat().st_size


def _by_folder(files: list[Path]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in files:
        if path.name != LIST_NAME:
            found.setdefault(str(path.parent), []).append(path.name)
    return found
