"""The workspace folder of the DeepFaceLab workflow: where everything lies, in its layout.

workspace/
  data_src.mp4            the film with the face to take (or mkv, mov, webm, avi, gif)
  data_src/               its frames, 00001.png ...
  data_src/aligned/       the faces cut out of them
  data_dst.mp4            the film to put the face into
  data_dst/               its frames; aligned/, merged/ and merged_mask/ beside them
  model/                  what is trained
  result.mp4
"""

from __future__ import annotations

import os
from pathlib import Path

from accel.core import ConfigError, InputError
from accel.faces.faceset import PICTURES
from accel.faces.sort import aside_of, recover, trash_of
from accel.pipelines.dfl.alone import alone
from accel.video.sniff import FILM_SUFFIXES

SIDES = ("src", "dst")
FOLLOW_LINKS = "ACCEL_FOLLOW_LINKS"  # set to 1: folders of a workspace may lie elsewhere
FACES = (*PICTURES, ".pak")  # suffixes


class Workspace:
    """The paths of one workspace. Nothing is made or read until a step asks for it.

    A workspace may come from a stranger, so what it holds must not lead out of it: a link in place
    of one of its folders is refused, unless the user says in the environment that it is his own.
    Raises InputError if `root` is not a folder, and for such a link.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"{self.root}: the workspace must be a folder, found none")
        self.model = self.root / "model"
        self.merged = self.root / "data_dst" / "merged"
        self.merged_mask = self.root / "data_dst" / "merged_mask"
        self.result = self.root / "result.mp4"
        aligned = [self.aligned(side) for side in SIDES]
        written = [*aligned, *map(trash_of, aligned), *map(aside_of, aligned), self.merged,
                   *map(self.aligned_debug, SIDES), self.merged_mask, self.model,
                   *self.model.glob("*_autobackups")]  # fmt: skip
        for folder in written:
            if os.environ.get(FOLLOW_LINKS) != "1" and self.leads_out(folder):
                raise InputError(
                    f"{folder}: must lie in the workspace, is a link or in one that leads out;"
                    f" where it is your own, set {FOLLOW_LINKS}=1"
                )

    def leads_out(self, path: Path) -> bool:
        """Whether a link on the way from the workspace to `path` leads to another place."""
        try:
            return not path.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # links in a circle
            return True

    def video(self, side: str) -> Path | None:
        """The film of a side, None if there is none. Raises ConfigError if there are several."""
        stem = f"data_{check_side(side)}"
        found = sorted(
            path
            for path in self.root.iterdir()
            if path.stem == stem and path.suffix.lower() in FILM_SUFFIXES and path.is_file()
        )
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ConfigError(f"{self.root}: there must be one {stem} film, found {names}")
        return found[0] if found else None

    def need_video(self, side: str) -> Path:
        """The same, where a step cannot do without. Raises InputError that names what to put."""
        found = self.video(side)
        if found is None:
            kinds = ", ".join(suffix[1:] for suffix in FILM_SUFFIXES)
            raise InputError(
                f"{self.root}: must hold a film data_{side}.* ({kinds}), found none; copy one there"
            )
        return found

    def frames(self, side: str) -> Path:
        """The folder of a side's frames; it need not exist."""
        return self.root / f"data_{check_side(side)}"

    def aligned(self, side: str) -> Path:
        """The folder of a side's aligned faces; it need not exist."""
        return self.frames(side) / "aligned"

    def aligned_debug(self, side: str) -> Path:
        """The folder of pictures that show what was found in each frame."""
        return self.frames(side) / "aligned_debug"

    def need_faces(self, side: str) -> Path:
        """The folder of aligned faces with something in it, a faceset.pak at least.

        What a sort that was killed left beside it comes back first.
        """
        folder = self.aligned(side)
        if aside_of(folder).is_dir():
            with alone(folder):  # else a sort that runs now would lose its files
                recover(folder)
        inner = list(folder.iterdir()) if folder.is_dir() else []
        if not any(path.is_dir() or path.suffix.lower() in FACES for path in inner):
            raise InputError(
                f"{folder}: must hold aligned faces, found none;"
                f" run `accel dfl extract {self.root} --side {side}`"
            )
        return folder

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"


def open_workspace(place: Workspace | Path | str) -> Workspace:
    return place if isinstance(place, Workspace) else Workspace(place)


def check_side(side: str) -> str:
    if side not in SIDES:
        raise ConfigError(f"side must be src or dst, got {side!r:.40}")
    return side
