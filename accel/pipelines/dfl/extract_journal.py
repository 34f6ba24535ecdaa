"""What an extraction notes in its folder, so that the next run goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, read_json
from accel.faces.faceset import faces_in
from accel.faces.faceset_pak import NAME as PAK
from accel.pipelines.dfl.made import made_in, remember
from accel.unfinished import write_whole

JOURNAL = "extract.json"
SAVE_EVERY_S = 2.0


class Journal:
    """How far a folder of aligned faces has come.

    settings: what the faces were made with; a run with others does not go on from here.
    done: frames of the source whose faces are on the disk.
    counts, dropped: `faces` and `frames_with_faces` so far; faces left out, by reason.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        self.done = 0
        self.counts: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self._saved_at = 0.0

    def begin(self, *, overwrite: bool) -> bool:
        """Look at what is in the folder; return whether everything is done already.

        What is done is done anew when it may be overwritten, or when no face of it is left.
        Raises ConfigError where it holds other faces, unless those may be overwritten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        before, faces = read_journal(self.folder), faces_in(self.folder)
        is_same = before is not None and before["settings"] == self.settings
        if before and is_same and not (before["complete"] and (overwrite or self._is_bare(before))):
            self.done = before["done"]
            self.counts.update(before["counts"])
            self.dropped.update(before["dropped"])
            return bool(before["complete"])
        if before or faces:
            self._make_room(faces, before, overwrite)
        return False

    def _is_bare(self, before: dict[str, Any]) -> bool:
        """Whether all faces that were found are gone."""
        has_any = faces_in(self.folder) or (self.folder / PAK).exists()
        return bool(before["counts"].get("faces")) and not has_any

    def _make_room(self, faces: list[Path], before: dict[str, Any] | None, overwrite: bool) -> None:
        mine = set(made_in(self.folder))
        others = [path for path in faces if path not in mine]
        if others:
            raise ConfigError(
                f"{self.folder}: holds {len(others)} faces that were not extracted here, such as"
                f" {others[0].name}; move them away first"
            )
        if faces and not overwrite:
            was = _difference(before["settings"] if before else {}, self.settings)
            raise ConfigError(
                f"{self.folder}: holds {len(faces)} faces extracted otherwise ({was});"
                " use --overwrite to remove them and start anew"
            )
        for path in mine:
            path.unlink()

    def add(self, faces: int, dropped: Iterable[str]) -> None:
        """Note one more frame, and save now and then."""
        self.done += 1
        self.counts["frames_with_faces"] += faces > 0
        self.counts["faces"] += faces
        self.dropped.update(dropped)
        if time.perf_counter() - self._saved_at > SAVE_EVERY_S:
            self.save()

    def save(self, *, is_complete: bool = False) -> None:
        values = {
            "settings": self.settings,
            "done": self.done,
            "complete": is_complete,
            "counts": dict(self.counts),
            "dropped": dict(self.dropped),
        }
        if not (self.folder / JOURNAL).exists():
            remember(self.folder, [JOURNAL])
        write_whole(self.folder / JOURNAL, json.dumps(values, indent=1).encode())
        self._saved_at = time.perf_counter()


def read_journal(folder: Path) -> dict[str, Any] | None:
    """What the last extraction into a folder noted; None if there is nothing usable."""
    try:
        values = read_json(folder / JOURNAL, "a journal")
        found = {"complete": False, "counts": {}, "dropped": {}, **values}
        is_sound = isinstance(found["settings"], dict) and _is_count(found["done"])
        for counts in (found["counts"], found["dropped"]):
            is_sound = is_sound and all(_is_count(count) for count in counts.values())
        return found if is_sound else None
    except (InputError, KeyError, TypeError, AttributeError):
        return None  # missing or damaged: everything is done again


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 40


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    parts = [f"{k} {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v]
    return "; ".join(parts) or "from other frames"
