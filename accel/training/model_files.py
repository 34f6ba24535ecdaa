"""A trained model's files in DeepFaceLab's names and format, the state to go on from included."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from accel.core import ConfigError, InputError, open_file
from accel.faces.autoencoder import (
    Autoencoder,
    AutoencoderConfig,
    from_dfl_order,
    to_dfl_order,
)
from accel.training.autoencoder import AutoencoderTrainer
from accel.training.optim import KINDS
from accel.training.options import (
    MODELS,
    TrainOptions,
    foreign,
    from_dfl,
    shape_from_dfl,
    to_dfl,
)
from accel.training.state import finish_saves, save_together, undisturbed
from accel.weights import dfl

OPTIONAL = {"code_discriminator": "true_face", "GAN": "gan"}  # parts, and what needs them
MAX_HISTORY = 10_000_000
LEAST_BYTES = 2  # of a weight


def stem_of(name: str, model: str) -> str:
    """How the names of a model's files begin."""
    if not name or name != Path(name).name or "_" in name or name.startswith("."):
        raise ConfigError(f"name must be a plain word without an underscore, got {name!r:.60}")
    return f"{name}_{MODELS[model]}"


def save(trainer: AutoencoderTrainer, folder: Path, name: str) -> None:
    """Write all files, all or none.

    Raises ConfigError if that cannot be done, NotSaved where it is the disk's fault; the last save
    is intact then.
    """
    stem = stem_of(name, trainer.options.model)
    for part, module in trainer.parts.items():
        if not all(bool(weight.isfinite().all()) for weight in module.parameters()):
            raise ConfigError(
                f"{folder}: weights of {part} must be finite to be saved; what was saved is intact"
            )
    files = {
        f"{stem}_{part}.npy": dfl.weights_file(to_dfl_order(module))
        for part, module in trainer.parts.items()
    }
    for key, optimiser in trainer.optimisers.items():
        files[f"{stem}_{key}.npy"] = dfl.weights_file(_memory_to_dfl(trainer, optimiser.state()))
    files[f"{stem}_data.dat"] = dfl.data_file(data_of(trainer))
    save_together(folder, stem, files)


def data_of(trainer: AutoencoderTrainer) -> dict[str, Any]:
    """What `_data.dat` holds; DeepFaceLab passes over keys that it does not know."""
    scale = trainer.loss_scale
    return {
        "iter": trainer.iteration,
        "options": trainer.foreign | to_dfl(trainer.options),
        "loss_history": trainer.history,
        "sample_for_preview": None,
        "choosed_gpu_indexes": None,
        "accel": {"version": 1, "scale": [scale.factor, scale.good] if scale else None},
    }


def saved_models(folder: Path) -> list[tuple[str, str]]:
    """Name and model, quick96 or saehd, of each in a folder, the one saved last first."""
    finish_saves(folder)
    models = {kind: model for model, kind in MODELS.items()}
    return [(name, models[kind]) for name, kind in dfl.find_models(folder) if kind in models]


def choose_model(
    folder: Path, name: str | None = None, model: str | None = None
) -> tuple[str, str]:
    """Name and model of the one that is meant: of those that fit, the one saved last.

    name: NAME or NAME_KIND, as its files begin. model: quick96 or saehd. Raises InputError if none
    fits, ConfigError for a name that models of both kinds have.
    """
    found = saved_models(folder)
    fitting = [
        (n, k) for n, k in found if model in (None, k) and name in (None, n, f"{n}_{MODELS[k]}")
    ]
    if fitting and (name is None or len(fitting) == 1):
        return fitting[0]
    there = ", ".join(f"{n}_{kind}" for n, kind in dfl.find_models(folder)) or "none"
    if fitting:
        raise ConfigError(f"model name {name} is not enough, there are {there}")
    wanted = " ".join(["a trained model", *(word for word in (model, name) if word)])
    hint = ""
    if not found:
        others = f"; only models of {' and '.join(MODELS.values())} can be used"
        train = f"; run `accel dfl train {folder.parent} --iterations 100000`"
        hint = train if there == "none" else others
    raise InputError(f"{folder}: must hold {wanted}, found {there}{hint}")


def saved_options(folder: Path, name: str, model: str) -> TrainOptions | None:
    """The options of a saved model; None if there is none."""
    path = data_path(folder, name, model)
    with undisturbed(folder, stem_of(name, model)):
        if not path.exists():
            return None
        data = dfl.read_data(path)
    return from_dfl(model, _options(data, path), str(path))


def check_new(folder: Path, model: str, name: str = "") -> None:
    """Raise InputError where there are weights without their data: of a model to begin, or any."""
    kind = MODELS[model]
    for path in sorted(folder.glob(f"*_{kind}_encoder.npy")):
        theirs = path.name.removesuffix(f"_{kind}_encoder.npy")
        if name in ("", theirs) and not (folder / f"{theirs}_{kind}_data.dat").exists():
            raise InputError(
                f"{folder}: must hold {theirs}_{kind}_data.dat beside {path.name}, found none; copy"
                " it there, or give another --name to begin a new model"
            )


def _options(data: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    options = data.get("options")
    if not isinstance(options, dict):
        raise InputError(f"{path}: must hold the model's options")
    return options


def data_path(folder: Path, name: str, model: str) -> Path:
    """Where a model's data lie."""
    return folder / f"{stem_of(name, model)}_data.dat"


def load_network(folder: Path, name: str, model: str) -> tuple[Autoencoder, int]:
    """A saved model's network and how many steps it was trained; without what training needs.

    Raises InputError, one line, for files that are missing, damaged or of another shape.
    """
    path, kind = data_path(folder, name, model), MODELS[model]
    with undisturbed(folder, stem_of(name, model)):
        data = dfl.read_data(path)
        shape = shape_from_dfl(model, _options(data, path), str(path))
        network = outlined(shape, folder, name, kind).to_empty(device="cpu").eval()
        for part, module in network.parts.items():
            load_part(module, dfl.part_file(folder, name, kind, part))
    steps = data.get("iter", 0)
    if not isinstance(steps, int | np.integer):
        raise InputError(f"{path}: iter must be a count, got {steps!r:.40}")
    return network.requires_grad_(False), int(steps)


def load(trainer: AutoencoderTrainer, folder: Path, name: str) -> list[str]:
    """Take up a saved model, ours or DeepFaceLab's; return notes on what was not there.

    Raises InputError, one line, for files that are missing, damaged or of another shape.
    """
    with undisturbed(folder, stem_of(name, trainer.options.model)):
        return _load(trainer, folder, name)


def _load(trainer: AutoencoderTrainer, folder: Path, name: str) -> list[str]:
    path = data_path(folder, name, trainer.options.model)
    data = dfl.read_data(path)
    kind = trainer.options.kind
    notes = []
    for part, module in trainer.parts.items():
        file = dfl.part_file(folder, name, kind, part)
        if part in OPTIONAL and not file.exists():
            notes.append(f"{OPTIONAL[part]} begins anew: it was off so far")
            continue
        load_part(module, file)
    for key, optimiser in trainer.optimisers.items():
        file = dfl.part_file(folder, name, kind, key)
        state = _memory_from_dfl(trainer, dfl.read_weights(file)) if file.exists() else {}
        missing = optimiser.load(state)
        if missing:
            notes.append(f"{key}: {len(missing)} of its {len(optimiser.memory)} arrays begin anew")
    trainer.iteration, trainer.history = _progress(data, path)
    options = _options(data, path)
    trainer.foreign = foreign(options)
    if options.get("pretrain"):
        notes.append(
            f"model {name} was being pre-trained; it goes on from iteration {trainer.iteration}"
            " with these faces"
        )
    scale = (data.get("accel") or {}).get("scale")
    if trainer.loss_scale and scale:
        trainer.loss_scale.factor, trainer.loss_scale.good = float(scale[0]), int(scale[1])
    return notes


def outlined(config: AutoencoderConfig, folder: Path, name: str, kind: str) -> Autoencoder:
    """A saved model's network before it has memory: on the meta device.

    Raises InputError where the files are too small to hold it, or not there: its sizes are what a
    stranger's file says.
    """
    with torch.device("meta"):
        network = Autoencoder(config)
    for part, module in network.parts.items():
        file = dfl.part_file(folder, name, kind, part)
        weights = sum(p.numel() for p in module.parameters())
        with open_file(file, "a model's file") as opened:
            size = os.fstat(opened.fileno()).st_size
        if size < LEAST_BYTES * weights:
            raise InputError(
                f"{file}: weights must fit the model, which has {weights}, got {size} bytes"
            )
    return network


def load_part(module: nn.Module, file: Path) -> None:
    """Take one part's weights from its file. Raises InputError, which names the file."""
    try:
        module.load_state_dict(from_dfl_order(module, dfl.read_weights(file)))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def _progress(data: Mapping[str, Any], path: Path) -> tuple[int, list[list[float]]]:
    iteration, history = data.get("iter"), data.get("loss_history", [])
    if not isinstance(iteration, int | np.integer) or iteration < 0:
        raise InputError(f"{path}: iter must be a count, got {iteration!r:.40}")
    if not isinstance(history, list) or len(history) > MAX_HISTORY:
        raise InputError(f"{path}: loss_history must be a list of losses")
    try:
        return int(iteration), [[float(v) for v in entry][:2] for entry in history]
    except (TypeError, ValueError):
        raise InputError(f"{path}: loss_history must be a list of losses") from None


def _memory_to_dfl(trainer: AutoencoderTrainer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {"iters": torch.as_tensor(state["iters"], dtype=torch.int64)}
    # In the order of the state: a set's would be another in every process.
    for prefix in dict.fromkeys(name.partition("_")[0] for name in state if name != "iters"):
        for part, module in trainer.parts.items():
            head = f"{prefix}_{part}."
            mine = {k.removeprefix(head): v for k, v in state.items() if k.startswith(head)}
            ordered = to_dfl_order(module, mine) if mine else {}
            found |= {f"{head}{k}_0": v for k, v in ordered.items()}
    return found


def _memory_from_dfl(trainer: AutoencoderTrainer, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {"iters": state["iters"]} if "iters" in state else {}
    for prefix in (prefix for kind in KINDS.values() for prefix in kind):
        for part, module in trainer.parts.items():
            head = f"{prefix}_{part}."
            mine = {
                k.removeprefix(head).removesuffix("_0"): v
                for k, v in state.items()
                if k.startswith(head)
            }
            if set(mine) == set(module.state_dict()):
                found |= {f"{head}{k}": v for k, v in from_dfl_order(module, mine).items()}
    return found
