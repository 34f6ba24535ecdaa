"""Mark what a pipeline writes: label, invisible mark, source type, credential, ledger.

A run has one `Marker`; each file it writes has one `Marking`. For a generated picture:

    marker = Marker(ProvenanceConfig(), task="generate", networks={"unet": sha256})
    marking = marker.begin()
    marking.mark_picture(rgb)          # in place, before it is saved
    ...                                # save rgb as PNG, JPEG or WebP under a temporary name
    marking.seal(partial, final)       # declares, signs, lists; then rename partial to final
    print(marker.line())               # the one line that every run prints

`marker.save(rgb, path)` does all of it. What was asked for and cannot be done is an error: whoever
calls then removes what is unfinished, so that no unmarked file is left behind.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import accel
from accel.core import ConfigError, files_below
from accel.kernels._native import limited_threads
from accel.kernels.paste import paste_rectangle
from accel.kernels.planes import Planes, gbr_layout
from accel.pipelines.provenance_config import ProvenanceConfig as ProvenanceConfig
from accel.provenance import c2pa, xmp
from accel.provenance.detector import Detector
from accel.provenance.keys import Identity, local_identity, own_identity
from accel.provenance.label import Label
from accel.provenance.ledger import Ledger, look
from accel.provenance.media import sha256_of
from accel.provenance.stamp import Stamp
from accel.provenance.verify import Frames
from accel.provenance.watermark import Mark, is_rgb, luma_of
from accel.unfinished import passing_name

FIRST_FRAMES = 3  # of a film, in which an earlier mark is sought: the first holds most of one
LOOKS, FIRST_STRIDE = 8, 8  # of a film, that the ledger keeps; frames between two, at first


class Marker:
    """What all files of one run share: who signs, what was done, with what.

    task: `face_swap`, `edit` or `generate`.
    sources: files that went in beside the target that is altered.
    networks: SHA-256 of each network and LoRA, by name. settings: numbers and words of the run.
        Neither may hold a prompt, a file's name or a person's: credentials are for strangers.
    Raises ConfigError at once for a certificate or a ledger that cannot be used, before any work
    is done.
    """

    def __init__(
        self,
        config: ProvenanceConfig | None = None,
        *,
        task: str,
        sources: Sequence[Path] = (),
        networks: Mapping[str, str] | None = None,
        settings: Mapping[str, str | int | float | bool | None] | None = None,
    ) -> None:
        self.config = config or ProvenanceConfig()
        if task not in c2pa.TASKS:
            raise ConfigError(f"task must be one of {', '.join(c2pa.TASKS)}, got {task!r}")
        if self.config.watermark == "face" and task != "face_swap":
            raise ConfigError(
                f"watermark face is for swapped faces; task {task} takes frame or off"
            )
        self.task = task
        self.sources = tuple(sources)
        self.networks, self.settings = dict(networks or {}), dict(settings or {})
        self.is_labelled = self.config.label == "corner" or (
            self.config.label == "auto" and task == "face_swap"
        )
        self.identity = self._identity() if self.config.credentials else None
        if self.config.ledger:
            Ledger().prepare()
        self.sealed: list[dict[str, Any]] = []
        self._hashes: dict[Path, str] = {}

    def _identity(self) -> Identity:
        if not (self.config.certificate and self.config.key):
            return local_identity()
        own = own_identity(self.config.certificate, self.config.key)
        with tempfile.TemporaryDirectory() as folder:  # better now than after an hour of work
            trial = Path(folder) / "trial.png"
            Image.new("L", (8, 8)).save(trial)
            c2pa.sign(trial, c2pa.Statement(task="generate"), own)
        return own

    def begin(
        self,
        *,
        target: Path | None = None,
        earlier: str | None = None,
        rotation: int = 0,
        mirrored: bool = False,
        still: bool = False,
    ) -> Marking:
        """Start on one file to be written.

        target: the file that is altered; None for what is generated.
        earlier: id of a mark that it carries already, as `earlier_mark` told.
        rotation, mirrored: how a viewer turns the stored picture, for the label.
        still: it is one picture, whose one frame must carry all of the mark.
        """
        return Marking(self, target, earlier, rotation, mirrored, still)

    def input(self, path: Path, role: str) -> c2pa.Input:
        """An input with its hash, which is taken once a run."""
        if path not in self._hashes:
            self._hashes[path] = content_hash(path)
        return c2pa.Input(path=path, role=role, sha256=self._hashes[path])

    def save(
        self,
        rgb: np.ndarray,  # [H, W, 3] uint8; it is marked in place
        path: Path,
        *,
        target: Path | None = None,
        earlier: str | None = None,
        ident: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Mark a picture and save it as the suffix says; return what was marked.

        ident: of the mark, in place of one drawn by lot. options: for Pillow's `save`, such as
            `pnginfo` or `quality`.
        Raises OSError or ConfigError, and then nothing is left behind.
        """
        marking = self.begin(target=target, earlier=earlier)
        if ident is not None and marking.mark is not None:
            marking.mark = Mark(ident)
        marking.mark_picture(rgb)
        partial = passing_name(path)
        try:
            Image.fromarray(rgb).save(partial, **options)
            told = marking.seal(partial, path)
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            marking.unseal()
            if isinstance(error, OSError) and error.filename in (None, str(partial), partial):
                error.filename = str(path)  # a full disk does not say where, or by a passing name
            raise
        return told

    def enter(self, signed: Mapping[str, Any]) -> dict[str, Any]:
        """List a file that `Marking.sign` signed; return what was done. Raises CredentialError."""
        told = {name: signed[name] for name in ("mark", "earlier", "credential", "declared")}
        entry = None
        if self.config.ledger:
            entry = Ledger().add(
                task=self.task, sha256=signed["sha256"], mark=signed["mark"],
                consent=self.config.consent, looks=tuple(signed["looks"]),
                credential=signed["serial"],
            )  # fmt: skip
        told["entry"] = entry.number if entry else None
        self.sealed.append(told)
        return told

    def report(self) -> dict[str, Any]:
        """What was marked, for a run's report."""
        files = self.sealed
        return {
            "files": len(files),
            "watermark": self.config.watermark,
            "marks": [one["mark"] for one in files if one["mark"]][:100],
            "earlier_marks": sorted({one["earlier"] for one in files if one["earlier"]}),
            "label": "corner" if self.is_labelled else "off",
            "credential": next((one["credential"] for one in files), "off"),
            "signer": self.identity.fingerprint if self.identity else None,
            "source_type": any(one["declared"] for one in files),
            "ledger": [one["entry"] for one in files if one["entry"]][:100],
            "consent": self.config.consent,
            "switched_off": list(self.config.switched_off()),
            "line": self.line(),
        }

    def line(self) -> str:
        """What was marked and what the user switched off, in one line."""
        off = self.config.switched_off()
        without = f"; you switched off: {', '.join(off)}" if off else ""
        if not self.sealed:
            return f"marked: nothing was altered, so nothing was marked{without}"
        told = list(filter(None, (self._said_of_mark(), self._said_of_credential())))
        if self.is_labelled:
            told.insert(1, "label in the corner")
        if entries := [one["entry"] for one in self.sealed if one["entry"]]:
            told.append(f"ledger entry {entries[-1]}" if len(entries) == 1 else
                        f"ledger entries {entries[0]} to {entries[-1]}")  # fmt: skip
        if not told:
            return f"marked: NO{without}; laws may ask for it where you live"
        return f"marked: {', '.join(told)}; consent {self.config.consent}{without}"

    def _said_of_mark(self) -> str:
        idents = [one["mark"] for one in self.sealed if one["mark"]]
        if not idents:
            return ""
        kept = all(one["earlier"] == one["mark"] for one in self.sealed if one["mark"])
        where = "kept from the input" if kept else f"whole {self.config.watermark}"
        where = "faces alone" if self.config.watermark == "face" and not kept else where
        shown = idents[0] if len(idents) == 1 else f"{len(idents)} ids"
        return f"invisible mark {shown} ({where})"

    def _said_of_credential(self) -> str:
        kinds = {one["credential"] for one in self.sealed} - {"off"}
        if not kinds:
            return ""
        return f"credential {'beside it' if kinds == {'sidecar'} else 'inside'}"


class Marking:
    """One file that is being made: its mark, its label, and at the end its credential."""

    def __init__(
        self, marker: Marker, target: Path | None, earlier: str | None, rotation: int,
        mirrored: bool, still: bool,
    ) -> None:  # fmt: skip
        self.marker, self.target, self.earlier, self.still = marker, target, earlier, still
        config = marker.config
        # A second mark over the first would make both unreadable.
        self.mark = None if config.watermark == "off" or earlier else Mark()
        self.label: Label | None = None
        if marker.is_labelled:
            self.label = Label(
                marker.task, language=config.language, rotation=rotation, mirrored=mirrored
            )
        self._stamp: Stamp | None = None  # made with the first frame
        self._is_marked = self._is_whole = False
        self._ident: str | None = None
        self._looks: list[str] = []
        self._seen, self._stride = 0, 1 if target is None else FIRST_STRIDE
        self._sidecar: Path | None = None

    def mark_frame(self, planes: Planes) -> None:
        """Draw the label into a finished frame and mark all of it, in place."""
        if self._stamp is None:
            whole = self.mark if self.marker.config.watermark == "frame" else None
            self._stamp, self._is_whole = Stamp(self.label, whole, still=self.still), bool(whole)
        self._stamp.put(planes)
        self._is_marked |= self._is_whole
        if self.marker.config.ledger:
            self._remember(planes)

    @contextmanager
    def changing(
        self,
        planes: Planes,
        matrix: Tensor,  # [2, 3] maps frame to crop, as `paste` takes it
        crop_px: int,
    ) -> Iterator[None]:
        """Around the `paste` of a face: marks in place what it changed, if watermark is `face`."""
        if self.mark is None or self.marker.config.watermark != "face":
            yield
            return
        box = paste_rectangle(matrix, crop_px, planes.height, planes.width)
        x0, y0, x1, y1 = box
        every = (planes.c0, planes.c1, planes.c2)
        kept = [plane[y0:y1, x0:x1].clone() for plane in every[: 3 if is_rgb(planes) else 1]]
        yield
        self.mark.add_inside(planes, box, kept)
        self._is_marked = True

    def mark_picture(self, rgb: np.ndarray) -> None:  # [H, W, 3] uint8, written in place
        """Label and mark a picture that lies in memory."""
        if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8 or not rgb.flags.writeable:
            raise ValueError(
                "mark_picture: rgb must be writable uint8 [H, W, 3], "
                f"got {rgb.dtype} {rgb.shape}, writable: {rgb.flags.writeable}"
            )
        self.still = True
        red, green, blue = (torch.from_numpy(rgb[:, :, k].copy()) for k in range(3))
        self.mark_frame(Planes(green, blue, red, gbr_layout()))
        for k, plane in enumerate((red, green, blue)):
            rgb[:, :, k] = plane.numpy()

    def seal(self, path: Path, final: Path | None = None) -> dict[str, Any]:
        """Declare, sign and list a finished file; return what was done.

        path: where it lies now. final: the name it will get, for what is put beside it.
        Raises CredentialError, InputError or OSError; call `unseal` when the file is given up.
        """
        return self.marker.enter(self.sign(path, final))

    def sign(self, path: Path, final: Path | None = None) -> dict[str, Any]:
        """Declare and sign as `seal` does; return what `Marker.enter` takes, as JSON values.

        For files that are finished one by one and that nobody may have before the last of them.
        """
        credential, declared, serial = "off", False, ""
        if self.marker.identity is not None:
            declared = xmp.declare(path, self.marker.task)
            credential, serial = self._sign(path, final or path, self.marker.identity)
        return {
            "mark": self.ident,
            "earlier": self.earlier,
            "credential": credential,
            "declared": declared,
            "serial": serial,
            "sha256": sha256_of(path) if self.marker.config.ledger else "",
            "looks": self._looks,
        }

    @property
    def touches_frames(self) -> bool:
        """Whether frames are changed that no face was swapped in."""
        whole = self.mark is not None and self.marker.config.watermark == "frame"
        return whole or self.label is not None

    def forget(self) -> None:
        """Let go of the patterns of a picture that got its marks; the id stays."""
        self._ident, self.mark, self.label, self._stamp = self.ident, None, None, None

    def unseal(self) -> None:
        """Take back what `seal` put beside the file."""
        if self._sidecar is not None:
            self._sidecar.unlink(missing_ok=True)

    @property
    def ident(self) -> str | None:
        """Id of the mark that is in the file: an earlier one that was kept, or its own."""
        own = self.mark.ident if self.mark and self._is_marked else self._ident
        return self.earlier or own

    def _sign(self, path: Path, final: Path, identity: Identity) -> tuple[str, str]:
        marker = self.marker
        inputs = [marker.input(one, "source") for one in marker.sources]
        if self.target is not None:
            inputs.insert(0, marker.input(self.target, "target"))
        statement = c2pa.Statement(
            task=marker.task,
            inputs=tuple(inputs),
            networks=marker.networks,
            settings=marker.settings,
            consent=marker.config.consent,
            mark=self.ident,
            earlier_mark=self.earlier,
        )
        sidecar = c2pa.sidecar_of(final)
        made = c2pa.sign(path, statement, identity, sidecar=sidecar, version=accel.__version__)
        if made.beside:
            self._sidecar = sidecar
        return ("sidecar" if made.beside else "embedded"), made.serial

    def _remember(self, planes: Planes) -> None:
        """Keep the looks of a few frames, evenly spread over a film of unknown length."""
        if self._seen % self._stride == 0:
            # Bytes of 8 bits as they lie: turning a large frame into numbers would take longer.
            plain = planes.c0.dtype == torch.uint8 and not is_rgb(planes)
            self._looks.append(look(planes.c0.cpu().numpy() if plain else luma_of(planes)))
            if len(self._looks) > LOOKS:
                self._looks = self._looks[::2]
                self._stride *= 2
        self._seen += 1


def earlier_mark(frames: Frames, *, thorough: bool = True) -> str | None:
    """Look for a mark in the first frames of an input: its id, None when none can be read.

    frames: lumas [H, W] in 8-bit codes with their weights. thorough: also look for one that was
    cut, mirrored or squeezed since, which takes some ten milliseconds where there is none.
    """
    detector = Detector()
    with limited_threads(1):  # others decode and analyse meanwhile
        with suppress(ValueError):  # a frame of another size than the first, or of one line
            for luma, weight in frames:
                detector.add(luma, weight)
        if not detector.frames:
            return None
        found = detector.find(thorough=False)
        if found.ident is None and thorough and detector.is_suspect():
            found = detector.find()
    return found.ident


def content_hash(path: Path) -> str:
    """SHA-256 of a file, or over the names and contents of all files of a folder."""
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for inside in files_below(path):
        digest.update(f"{inside.relative_to(path)}\0{sha256_of(inside)}\n".encode())
    return digest.hexdigest()


def first_lumas(frames: Iterable[tuple[np.ndarray, float]]) -> Frames:
    """The first frames of a film: what an earlier mark is sought in."""
    return islice(frames, FIRST_FRAMES)
