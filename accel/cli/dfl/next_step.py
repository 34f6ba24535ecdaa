"""What comes next in a workspace, for whoever has just done a step."""

from __future__ import annotations

import shlex
from pathlib import Path


def with_next(text: str, step: str, workspace: Path, *options: str) -> str:
    """A step's words, and a line that says which command comes next."""
    return f"{text}\nnext: {shlex.join(['accel', 'dfl', step, str(workspace), *options])}"


def after_faces(text: str, workspace: Path, extracted: str | None = None) -> str:
    """The same while faces are being made ready: what is still missing, else the training.

    extracted: the side whose faces were just looked for; to do that again would find no more.
    """
    for side in ("src", "dst"):
        folder = workspace / f"data_{side}" / "aligned"
        if not any(any(folder.glob(name)) for name in ("*.jpg", "*.png", "faceset.pak")):
            if side == extracted:
                film = workspace / f"data_{side}"
                wanted = "a film or pictures that show a face"
                return f"{text}\nnext: {wanted}, as {film}.* or in {film}"
            return with_next(text, "extract", workspace, "--side", side)
    return with_next(text, "train", workspace, "--iterations", "100000")
