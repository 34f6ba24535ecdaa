"""What comes next in a workspace, for whoever has just done a step."""

from __future__ import annotations

import shlex
from pathlib import Path

SMALLER = {"half_face": "half", "midfull_face": "midfull"}  # than what Quick96 is trained on


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
    return with_next(text, "train", workspace, *_model_for(workspace), "--iterations", "100000")


def _model_for(workspace: Path) -> tuple[str, ...]:
    """Options of a model that the faces are large enough for; none where the usual one is.

    Each side's first face speaks for all of them. Damaged files are the training's to tell of.
    """
    from accel.pipelines.dfl.pack import first_type

    shown = {first_type(workspace / f"data_{side}" / "aligned") for side in ("src", "dst")}
    for kind, word in SMALLER.items():
        if kind in shown:
            return "--model", "saehd", "--face-type", word
    return ()
