"""Settings frame by frame, kept in a file that people can read and a later run repeats.

    {"version": 1, "default": {"mode": "overlay", ...}, "frames": {"00017": {"erode": 10}}}

A frame that is named differs from the one before it by what stands there; a frame that is not
named is merged as the one before it; the first as `default`, where what is left out is as always.
The file also tells the seed and, for whoever opens the merger again, where it was left.
"""

from __future__ import annotations

import json
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accel.core import ConfigError, InputError, read_json
from accel.faces.merge_settings import MergeSettings, check_names
from accel.unfinished import write_whole

VERSION = 1
KEYS = ("version", "default", "frames", "seed", "color_variant", "cursor", "model")
MAX_FILE_BYTES = 64 << 20


@dataclass
class MergeSession:
    """Settings of every frame of a clip.

    names: of all frames, without suffix, in order. default: of frames before any in `own`.
    own: frames that have settings of their own, by name. seed: of what chance decides.
    color_variant: `dfl` or `exact`, see `color_transfer`. cursor: the frame looked at last.
    """

    names: Sequence[str]
    default: MergeSettings = field(default_factory=MergeSettings)
    own: dict[str, MergeSettings] = field(default_factory=dict)
    seed: int = 0
    color_variant: str = "dfl"
    cursor: str | None = None

    def __post_init__(self) -> None:
        # Of the frames in `own`, rising: each frame asks, and a film may have 100,000.
        self._numbers = [i for i, name in enumerate(self.names) if name in self.own]

    def settings(self, number: int) -> MergeSettings:
        """Of frame `number`: its own, or those of the last frame before it that has some."""
        place = bisect_right(self._numbers, number)
        return self.own[self.names[self._numbers[place - 1]]] if place else self.default

    def every(self) -> list[MergeSettings]:
        """Of all frames."""
        result, last = [], self.default
        for name in self.names:
            last = self.own.get(name, last)
            result.append(last)
        return result

    def change(self, number: int, settings: MergeSettings) -> None:
        """Give a frame settings of its own; those after it that have none inherit them."""
        if self.names[number] not in self.own:
            insort(self._numbers, number)
        self.own[self.names[number]] = settings

    def keep(self, number: int) -> None:
        """Let a frame stay as it is whatever happens to those before it."""
        self.change(number, self.settings(number))

    def described(self) -> dict[str, Any]:
        """What the file holds."""
        frames: dict[str, dict[str, Any]] = {}
        last = self.default
        for name in self.names:
            if name in self.own:
                frames[name] = self.own[name].differences(last)
                last = self.own[name]
        told: dict[str, Any] = {
            "version": VERSION,
            "default": asdict(self.default),
            "frames": frames,
            "seed": self.seed,
            "color_variant": self.color_variant,
        }
        return told | ({"cursor": self.cursor} if self.cursor else {})

    def save(self, path: Path) -> None:
        """Write the file; an old one stays until the new one is whole."""
        try:
            write_whole(path, (json.dumps(self.described(), indent=1) + "\n").encode())
        except OSError as error:
            raise ConfigError(
                f"{path}: could not be saved ({error.strerror}); the last save is intact"
            ) from error


def load_session(
    path: Path, names: Sequence[str], base: MergeSettings | None = None
) -> MergeSession:
    """Read settings for the frames `names` (with or without suffix).

    base: what `default` leaves out is taken from it. Raises InputError for a file that is no such
    settings, or that names a frame or a setting there is not.
    """
    values = read_json(path, "JSON with merge settings", MAX_FILE_BYTES)
    if not isinstance(values, dict) or values.get("version") != VERSION:
        raise InputError(f"{path}: must be merge settings of version {VERSION}")
    unknown = [str(key) for key in values if key not in KEYS]
    if unknown:
        raise InputError(f"{path}: there is no {', '.join(unknown)[:80]}; it has {', '.join(KEYS)}")
    stems = [Path(name).stem for name in names]
    default = _changed(base or MergeSettings(), values.get("default", {}), f"{path}: default")
    session = MergeSession(stems, default)
    frames = values.get("frames", {})
    if not isinstance(frames, dict):
        raise InputError(f"{path}: frames must be settings by name")
    _take_frames(session, frames, path)
    seed, variant = values.get("seed", 0), values.get("color_variant", "dfl")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 1 << 62:
        raise InputError(f"{path}: seed must be a whole number from 0 on, got {seed!r:.40}")
    if variant not in ("dfl", "exact"):
        raise InputError(f"{path}: color_variant must be dfl or exact, got {variant!r:.40}")
    cursor = values.get("cursor")
    session.seed, session.color_variant = seed, variant
    session.cursor = cursor if cursor in stems else None
    return session


def _take_frames(session: MergeSession, frames: Mapping[str, Any], path: Path) -> None:
    named = {Path(str(name)).stem: changes for name, changes in frames.items()}
    strangers = named.keys() - set(session.names)
    if strangers:
        raise InputError(
            f"{path}: frames must be of this clip ({session.names[0]} to {session.names[-1]}), "
            f"got {min(strangers)!r:.40}"
        )
    last = session.default
    for number, name in enumerate(session.names):
        if name in named:
            last = _changed(last, named[name], f"{path}: frame {name}")
            session.change(number, last)


def _changed(base: MergeSettings, changes: Any, who: str) -> MergeSettings:
    if not isinstance(changes, dict):
        raise InputError(f"{who}: must be settings by name, got {type(changes).__name__}")
    try:
        check_names(changes, who)
        return base.with_changes(changes)
    except ConfigError as error:
        text = str(error)
        raise InputError(text if text.startswith(who) else f"{who}: {text}") from None
