"""Model files as people keep them: A1111's folders, searched by name and by hash.

models/Stable-diffusion   checkpoints
models/Lora, models/LyCORIS
models/VAE
models/VAE-approx   TAESD
models/ControlNet   ControlNets and T2I-Adapters
models/embeddings, or embeddings beside models
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from accel.core import ConfigError
from accel.models import nano
from accel.pipelines.generate import hashes
from accel.weights.assets import asset
from accel.weights.files import open_tensors

ENDINGS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
KINDS = {  # by kind: its folders, as A1111, Forge and ComfyUI have them
    "checkpoint": ("Stable-diffusion", "checkpoints", "diffusers"),
    "lora": ("Lora", "LyCORIS", "loras"),
    "vae": ("VAE", "vae"),
    "decoder": ("VAE-approx", "vae_approx"),
    "control": ("ControlNet", "controlnet", "t2i_adapter"),
    "embedding": ("embeddings", "../embeddings"),
}
PICTURES = (".png", ".webp", ".jxl", ".avif")  # an embedding may be one
HASH = re.compile(r"[0-9a-fA-F]{8,64}")
EMBEDDED_LORAS = {"ink": "nano_ink_lora.safetensors"}  # for nano: black on white
VARIABLE = "ACCEL_MODELS"  # the root, where none is given


@dataclass(frozen=True)
class ModelFile:
    """A file that was found: `name` is its path below the folder of its kind, without ending."""

    kind: str
    name: str
    path: Path

    @property
    def stem(self) -> str:
        return self.path.stem

    def hashes(self) -> dict[str, str]:
        """The names by which communities know it; reads the whole file the first time."""
        whole, data = hashes.sha256(self.path), hashes.data_sha256(self.path)
        return {"sha256": whole, "autov2": whole[:10], "autov3": data[:12]}


class ModelFolders:
    """Files below one root. They are looked for once; make a new one to see what was added."""

    def __init__(self, root: Path | None = None):
        """root: None takes $ACCEL_MODELS, else `models` in the working folder."""
        given = root is not None
        self.root = Path(root or os.environ.get(VARIABLE) or "models")
        if given and not self.root.is_dir():
            raise ConfigError(f"{self.root}: must be a folder with models in it")

    @cached_property
    def files(self) -> list[ModelFile]:
        found: dict[Path, ModelFile] = {}
        for kind, folders in KINDS.items():
            for folder in folders:
                for one in sorted(_below(kind, self.root / folder), key=lambda f: f.name.lower()):
                    found.setdefault(one.path.resolve(), one)  # two folders may be one
        return list(found.values())

    def of(self, kind: str) -> list[ModelFile]:
        return [one for one in self.files if one.kind == kind]

    def find(self, kind: str, name: str | Path, *, anywhere: bool = True) -> Path:
        """A file by its path, its name with or without folder and ending, or a hash of it.

        LoRA files are known by the name they were trained under too (`ss_output_name`), as A1111
        has it. A bare word means a model before it means something in the working folder.
        anywhere: False looks among the models alone.
        Raises ConfigError, with the nearest names, where there is none or are several.
        """
        path = Path(name)
        if anywhere and not self._is_word(kind, path) and is_model(kind, path):
            return path
        wanted = str(name)
        looks_like_path = path.suffix in ENDINGS and len(path.parts) > 1
        named = [one for one in self.of(kind) if wanted in _names(one)]
        if not named and not looks_like_path:
            plain = wanted.lower()
            named = [o for o in self.of(kind) if plain in {n.lower() for n in _names(o)}]
        if not named and kind == "lora" and wanted.lower() in EMBEDDED_LORAS:
            return asset(EMBEDDED_LORAS[wanted.lower()])
        if not named and kind == "lora":
            named = [one for one in self.of(kind) if _trained_as(one.path) == wanted]
        if not named and HASH.fullmatch(wanted):
            named = [one for one in self.of(kind) if _has_hash(one, wanted.lower())][:1]
        if len(named) == 1:
            return named[0].path
        if named:
            some = ", ".join(str(one.path) for one in named[:3])
            raise ConfigError(f"{wanted!r} must mean one {kind}, but {len(named)} fit: {some}")
        raise self._unknown(kind, wanted)

    def _is_word(self, kind: str, path: Path) -> bool:
        is_bare = len(path.parts) == 1 and path.suffix.lower() not in ENDINGS
        is_embedded = kind == "lora" and path.name in EMBEDDED_LORAS
        return is_bare and (is_embedded or any(path.name in _names(one) for one in self.of(kind)))

    def _unknown(self, kind: str, wanted: str) -> ConfigError:
        embedded = {"lora": EMBEDDED_LORAS, "checkpoint": (nano.NAME,)}.get(kind, ())
        known = sorted({*embedded, *(one.stem for one in self.of(kind))})
        near = difflib.get_close_matches(wanted, known, n=3, cutoff=0.4)
        there = f"near: {', '.join(near)}" if near else f"{self.root} holds none"
        if known and not near:
            there = f"there is {', '.join(known[:3])}{', ...' if len(known) > 3 else ''}"
        return ConfigError(f"no {kind} is called {wanted!r}, and no such file exists; {there}")

    def listing(self, *, with_hashes: bool = True) -> list[dict[str, Any]]:
        """Everything that was found, for people and JSON."""
        return [
            {
                "kind": one.kind,
                "name": one.name,
                "path": str(one.path),
                "bytes": one.path.stat().st_size if one.path.is_file() else None,
                **(one.hashes() if with_hashes and one.path.is_file() else {}),
            }
            for one in self.files
        ]


def is_model(kind: str, path: Path) -> bool:
    """Whether this is a file, or a folder that holds a model of the kind."""
    if kind in ("control", "decoder") and (path / "config.json").is_file():
        return True
    folders = ("unet", "text_0")  # of diffusers' layout, and of an exported model
    is_folder = kind == "checkpoint" and any((path / folder).is_dir() for folder in folders)
    return is_folder or path.is_file()


def embedded_lora(path: Path) -> str | None:
    """The word for a LoRA that comes with the engine."""
    words = (word for word, file in EMBEDDED_LORAS.items() if path == asset(file))
    return next(words, None)


def _below(kind: str, folder: Path) -> Iterator[ModelFile]:
    if not folder.is_dir():
        return
    endings = ENDINGS + PICTURES if kind == "embedding" else ENDINGS
    whole: list[Path] = []
    for path in sorted(folder.rglob("*")):
        if any(parent in path.parents for parent in whole):
            continue
        if kind == "checkpoint" and (path / "unet").is_dir():
            whole.append(path)
            yield ModelFile(kind, str(path.relative_to(folder)), path)
        elif path.suffix.lower() in endings and path.is_file():
            yield ModelFile(kind, str(path.relative_to(folder).with_suffix("")), path)


def _names(one: ModelFile) -> set[str]:
    relative = one.name + one.path.suffix
    return {one.name, relative, one.path.name, one.path.stem, one.path.name.replace(",", "")}


def _trained_as(path: Path) -> str | None:
    if path.suffix != ".safetensors":
        return None
    return open_tensors(path).metadata.get("ss_output_name")


def _has_hash(one: ModelFile, digits: str) -> bool:
    if not one.path.is_file():
        return False
    known = one.hashes()
    return known["sha256"].startswith(digits) or known["autov3"].startswith(digits[:12])
