"""Put the trained face into the target's frames: step 7 of the workflow.

Pictures go to `merged` and `merged_mask`, where a run that was stopped is taken up again; or frames
go straight into a film, which then has the target's sound and time stamps.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from accel.core import (
    Cancel,
    ConfigError,
    InputError,
    Progress,
    ProgressCallback,
    Refused,
    kept_memory,
    light_collector,
    read_json,
)
from accel.faces.merge_settings import MergeSettings as MergeSettings
from accel.kernels import planes_to_rgb
from accel.kernels._native import limit_threads
from accel.pipelines.dfl.encode import open_result
from accel.pipelines.dfl.frames import FrameSource, NamedFrame, PictureFrames
from accel.pipelines.dfl.made import LIST_NAME, made_in, remember
from accel.pipelines.dfl.merge_frame import MergedFrame, raw_picture
from accel.pipelines.dfl.merge_job import MergeConfig as MergeConfig
from accel.pipelines.dfl.merge_job import MergeJob
from accel.pipelines.dfl.save_frames import encode_picture
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.gate import ContentGate, Gate
from accel.pipelines.provenance import Marker
from accel.pipelines.run_report import end_of_report
from accel.provenance.c2pa import sidecar_of
from accel.unfinished import write_whole
from accel.video.frame import Frame
from accel.video.stages import buffered, in_order

JOURNAL = "merged.json"  # beside the pictures: what each was made with
MARKED_LATER = "marked: NO; `accel dfl encode` marks the film that it makes of these pictures"
SAVE_EVERY_S = 5.0  # how much work a killed run may do again


def merge_faces(
    place: Workspace | Path | str,
    config: MergeConfig | None = None,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    gate: Gate | None = None,
) -> dict[str, Any]:
    """Merge all frames of a workspace's target; return the report that `--json` writes.

    gate: your own content gate, in place of `accel.pipelines.gate.ContentGate`.

    Raises InputError for what the workspace lacks, ConfigError for a setting, Cancelled, and
    Refused when the gate says no: then nothing that this run wrote is left.
    """
    job = MergeJob(open_workspace(place), config or MergeConfig())
    with closing(job):
        return run_merge(job, progress=progress, cancel=cancel, gate=gate)


def run_merge(
    job: MergeJob,
    *,
    progress: ProgressCallback | None = None,
    cancel: Cancel | None = None,
    gate: Gate | None = None,
) -> dict[str, Any]:
    """Merge what a job's settings say, into pictures or a film."""
    started = time.perf_counter()
    job.check()
    config = job.config
    write = _to_film if config.to else _to_pictures
    with light_collector(), kept_memory():
        # Pictures of a folder need not come from one film, whatever lies beside them.
        gate = gate or ContentGate(stills=isinstance(job.source, PictureFrames))
        report = write(job, gate, progress, cancel or Cancel())
    return {
        "command": "dfl merge",
        "workspace": str(job.workspace.root),
        "model": job.model.label,
        "iteration": job.model.iteration,
        "frames": len(job.source),
        "faces": job.table.faces,
        "frames_with_faces": sum(bool(frame.places) for frame in job.table.by_frame),
        **report,
        "settings": asdict(job.session.default),
        "frames_with_own_settings": len(job.session.own),
        "notes": list(
            dict.fromkeys([*report["notes"], *job.notes, *job.table.notes, *job.source.notes])
        ),
        **end_of_report(started, torch.device(job.predictor.device)),
    }


# --- pictures -----------------------------------------------------------------------------------


def _to_pictures(
    job: MergeJob, gate: Gate, progress: ProgressCallback | None, cancel: Cancel
) -> dict[str, Any]:
    folders = job.workspace.merged, job.workspace.merged_mask
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        _check_strangers(folder, job.config.overwrite)
    remember(folders[0], [JOURNAL])
    journal = Journal(folders[0] / JOURNAL)
    recipes = [job.recipe(number) for number in range(len(job.source))]
    todo = [
        number
        for number, name in enumerate(job.source.names)
        if job.config.overwrite or not _is_merged(job, journal, name, recipes[number])
    ]
    started = time.perf_counter()
    done = len(recipes) - len(todo)
    try:
        with closing(_merged(job, _Writing(job), todo, gate, cancel)) as results:
            for number in results:
                journal.add(Path(job.source.names[number]).stem, recipes[number])
                done += 1
                _tell(progress, done, len(recipes), len(recipes) - len(todo), started)
    except Refused:
        for name, folder in product((job.source.names[number] for number in todo), folders):
            (folder / f"{Path(name).stem}.png").unlink(missing_ok=True)
        raise
    finally:
        journal.save()
    return {
        "output": str(folders[0]),
        "masks": str(folders[1]),
        "merged": len(todo),
        "kept": len(recipes) - len(todo),
        "fps": round(len(todo) / max(time.perf_counter() - started, 1e-9), 2),
        "marked": {"files": 0, "line": MARKED_LATER},
        "notes": [],
    }


class Journal:
    """What each merged picture was made with, by its name without suffix."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipes: dict[str, str] = {}
        self._saved = time.monotonic()
        try:
            found = read_json(path, "a journal") if path.exists() else {}
            self.recipes = {str(name): str(recipe) for name, recipe in found.items()}
        except (InputError, AttributeError):
            # A damaged journal costs work, nothing else: everything is merged again.
            self.recipes = {}

    def add(self, name: str, recipe: str) -> None:
        self.recipes[name] = recipe
        if time.monotonic() - self._saved > SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        write_whole(self.path, (json.dumps(self.recipes) + "\n").encode())
        self._saved = time.monotonic()


def _check_strangers(folder: Path, overwrite: bool) -> None:
    """Pictures that others made are not replaced without being asked to."""
    own = {path.name for path in made_in(folder)} | {LIST_NAME, JOURNAL}
    others = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name not in own)
    if others and not overwrite:
        raise ConfigError(
            f"{folder}: holds pictures that this engine did not make, such as {others[0]}; "
            "move them away, or overwrite"
        )


def _is_merged(job: MergeJob, journal: Journal, name: str, recipe: str) -> bool:
    png = Path(name).stem + ".png"
    there = (job.workspace.merged / png).is_file() and (job.workspace.merged_mask / png).is_file()
    return there and journal.recipes.get(Path(name).stem) == recipe


@dataclass
class _Writing:
    """Merges one frame and writes its two pictures; runs in several threads."""

    job: MergeJob

    def __call__(self, item: tuple[int, NamedFrame]) -> int:
        limit_threads(1)
        number, named = item
        job, png = self.job, Path(named.name).stem + ".png"
        merged = job.merge(number, named.frame)
        folders = job.workspace.merged, job.workspace.merged_mask
        for folder, data in zip(folders, _pngs(named.frame, merged)):
            # Listed first: what is listed and not there does no harm.
            remember(folder, [png])
            write_whole(folder / png, data)
        return number


def _pngs(frame: Frame, merged: MergedFrame) -> tuple[bytes, bytes]:
    mask = (merged.mask * 255 + 0.5).astype(np.uint8)
    if merged.crops:
        rgb = raw_picture(merged.crops)
    else:
        deep = frame.layout.bits > 8
        rgb = planes_to_rgb(frame.planes, dtype=torch.uint16 if deep else torch.uint8).numpy()
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    return encode_picture(bgr, ".png"), encode_picture(mask, ".png")


def _merged(
    job: MergeJob, work: Any, todo: Sequence[int], gate: Gate, cancel: Cancel
) -> Generator[Any, None, None]:
    """`work` on the frames that are to be done, several at a time, in order."""
    workers = max(1, os.cpu_count() or 1)
    # Closed by name, so that an error stops the thread that decodes.
    with (
        closing(buffered(_passed(_chosen(job.source, todo), gate), 2, "decode")) as frames,
        ThreadPoolExecutor(workers) as pool,
    ):
        yield from in_order(pool, work, frames, workers + 1, cancel)


def _chosen(source: FrameSource, todo: Sequence[int]) -> Iterator[tuple[int, NamedFrame]]:
    """Number and frame of those that are to be done."""
    wanted = set(todo)
    if not wanted:
        return
    first, last = min(wanted), max(wanted)
    for number, named in enumerate(source.start(first), first):
        if number in wanted:
            yield number, named
        if number >= last:
            return


def _passed(
    frames: Iterator[tuple[int, NamedFrame]], gate: Gate
) -> Iterator[tuple[int, NamedFrame]]:
    """Frames that the content gate has nothing against, before they are altered."""
    for number, named in frames:
        gate.check([named.frame])
        yield number, named


def _tell(
    progress: ProgressCallback | None, done: int, total: int, kept: int, started: float
) -> None:
    if progress:
        rate = (done - kept) / max(time.perf_counter() - started, 1e-9)
        progress(Progress(stage="merge", done=done, total=total, rate=rate))


# --- film ---------------------------------------------------------------------------------------


def _to_film(
    job: MergeJob, gate: Gate, progress: ProgressCallback | None, cancel: Cancel
) -> dict[str, Any]:
    config, path = job.config, job.config.to
    assert path is not None
    if path.exists() and not config.overwrite:
        raise ConfigError(f"{path} exists; choose another name, remove it, or overwrite")
    marker = Marker(
        config.provenance,
        task="face_swap",
        networks={job.model.kind: job.model.fingerprint},
        settings={"workflow": "dfl"},
    )
    started, total = time.perf_counter(), len(job.source)

    def work(item: tuple[int, NamedFrame]) -> tuple[Frame, bool]:
        limit_threads(1)
        number, named = item
        merged = job.merge(number, named.frame)
        return named.frame, bool(merged.mask.any())

    changed = 0
    with (
        open_result(path, job.source, config.encode, marker=marker) as writer,
        closing(_merged(job, work, range(total), gate, cancel)) as frames,
    ):
        for done, (frame, altered) in enumerate(frames, 1):
            writer.write(frame, altered)
            changed += altered
            _tell(progress, done, total, 0, started)
    if path.resolve().parent == job.workspace.root.resolve():
        remember(job.workspace.root, [path.name, sidecar_of(path).name])
    return {
        "output": str(path),
        "masks": None,
        "merged": changed,
        "kept": 0,
        "fps": round(total / max(time.perf_counter() - started, 1e-9), 2),
        "codec": writer.encoder,
        "marked": marker.report(),
        "notes": list(writer.notes),
    }
