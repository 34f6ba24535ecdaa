"""The export step of the DeepFaceLab workflow: a trained model as one .dfm file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from accel.core import ConfigError, InputError
from accel.faces.autoencoder import Autoencoder
from accel.faces.autoencoder_onnx import to_onnx
from accel.pipelines.dfl.workspace import Workspace, open_workspace
from accel.pipelines.run_report import end_of_report
from accel.training import model_files
from accel.training.options import MODELS
from accel.unfinished import write_whole
from accel.weights.onnx import open_onnx

Floats = npt.NDArray[Any]
ALLOWED = 1e-4  # between the file, as it runs, and the model


def export(
    workspace: Workspace | Path | str,
    to: Path | str,
    *,
    model: str | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a model of `workspace` to `to`, run it once, and compare; return a report.

    model, name: which; the one that was saved last where they are not given.

    Raises ConfigError if `to` exists or does not end in .dfm, InputError if there is no such model
    or its files are damaged.
    """
    started = time.perf_counter()
    place, target = open_workspace(workspace), Path(to)
    folder = place.model
    if target.suffix.lower() not in (".dfm", ".onnx"):
        raise ConfigError(f"{target}: the name must end in .dfm or .onnx")
    if not target.parent.is_dir():
        raise ConfigError(f"{target}: the folder must exist, {target.parent} does not")
    if target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; choose another name or give --overwrite")
    name, model = model_files.choose_model(folder, name, model)
    network, iterations = model_files.load_network(folder, name, model)
    config = network.config
    about = {
        "producer": "accel",
        "model": MODELS[model],
        "name": name,
        "archi": config.archi,
        "face_type": config.face_type.value,
        "iterations": str(iterations),
    }
    content = to_onnx(network, about)
    error, notes = _difference(network, content, f"{folder}: model {name}")
    write_whole(target, content)
    return {
        "command": "dfl export",
        "workspace": str(place.root),
        "output": str(target),
        "bytes": len(content),
        "model": model,
        "name": name,
        "resolution": config.resolution,
        "archi": config.archi,
        "face_type": config.face_type.value,
        "iterations": iterations,
        "largest_difference": error,
        "notes": notes,
        **end_of_report(started),
    }


@torch.no_grad()
def _difference(network: Autoencoder, content: bytes, who: str) -> tuple[float, list[str]]:
    """The largest difference of any output on a picture of noise, and a note where it is large.

    Where it is, the file must lie as near to exact arithmetic as the model does: x·cos x, of archi
    `c`, can make any rounding a hundred times larger. Raises InputError where it does not.
    """
    side = network.config.resolution
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(2, 3, side, side, generator=generator)
    given = open_onnx(content)(**{"in_face:0": pictures.permute(0, 2, 3, 1).numpy()})
    wanted = _outputs(network, pictures)
    error = _apart(given, wanted)
    if error <= ALLOWED:
        return error, []
    exact = _outputs(network.double(), pictures.double())
    own = _apart(wanted, exact)
    if not _apart(given, exact) <= max(ALLOWED, 2 * own):
        raise InputError(f"{who}: the file must give the same, got a difference of {error:.2g}")
    return error, [
        f"rounding alone moves what this model draws by {own:.2g} of white, and so it does in the"
        " file"
    ]


def _outputs(network: Autoencoder, pictures: Tensor) -> list[Floats]:
    face, mask, mask_dst = network(pictures)
    return [t.permute(0, 2, 3, 1).numpy() for t in (mask_dst, face, mask)]


def _apart(some: Sequence[Floats], others: Sequence[Floats]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(some, others))
