"""The networks of a merge: a trained autoencoder, and those that mask or sharpen its faces."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from accel.core import ConfigError, InputError
from accel.faces.autoencoder import Autoencoder, AutoencoderConfig
from accel.faces.merge import batch, input_crop
from accel.faces.merge_mask import Pixels, Prediction
from accel.faces.merge_place import Place
from accel.faces.merge_settings import MergeSettings
from accel.training.model_files import choose_model, load_network
from accel.training.options import MODELS
from accel.weights.assets import asset
from accel.weights.onnx import Network, open_onnx

ENHANCER = "esrgan_slim_x4.onnx"
XSEG_PX = 256
XSEG_LEAST = 0.1  # what XSeg is less sure of is not the face


@dataclass(frozen=True)
class FaceModel:
    """A trained model. fingerprint: changes when its weights do."""

    name: str
    kind: str
    network: Autoencoder
    iteration: int
    fingerprint: str

    @property
    def config(self) -> AutoencoderConfig:
        return self.network.config

    @property
    def label(self) -> str:
        return f"{self.name}_{self.kind}"


def open_model(folder: Path, name: str | None = None) -> FaceModel:
    """Open the model that was saved last, or the one called `name` (`NAME` or `NAME_KIND`).

    Raises InputError when there is none or its files do not fit together.
    """
    label, kind = choose_model(folder, name)
    network, iteration = load_network(folder, label, kind)
    digest = hashlib.sha256()
    for weight, numbers in network.state_dict().items():
        digest.update(weight.encode())
        digest.update(numbers.numpy().data)
    return FaceModel(label, MODELS[kind], network, iteration, digest.hexdigest())


class Predictor:
    """Runs the networks on faces. May be called from several threads."""

    def __init__(self, model: FaceModel, xseg: Path | None = None, *, device: str = "cpu") -> None:
        self.model, self.device = model, device
        self.xseg = open_xseg(xseg, device) if xseg else None
        model.network.to(device)
        self._enhancer: Network | None = None
        self._lock = threading.Lock()

    @property
    def px(self) -> int:
        return self.model.config.resolution

    def check(self, settings: MergeSettings) -> None:
        """Raise ConfigError for settings that need a network which was not given."""
        if settings.needs_xseg and self.xseg is None:
            raise ConfigError(f"mask {settings.mask} needs xseg, an ONNX file of an XSeg network")

    def predict(
        self, pictures: Sequence[Pixels], places: Sequence[Place], settings: MergeSettings
    ) -> list[Prediction]:
        """What the networks say of faces, as far as the settings need it.

        pictures: [H, W, 3] each face's part of its frame; places: where it is in it.
        """
        self.check(settings)
        made = [self._blank() for _ in places]
        if settings.needs_prediction and places:
            made = self._swap([input_crop(p, q, self.px) for p, q in zip(pictures, places)])
        for prediction, picture, place in zip(made, pictures, places):
            self.complete(prediction, picture, place, settings)
        return made

    def complete(
        self, prediction: Prediction, picture: Pixels, place: Place, settings: MergeSettings
    ) -> None:
        """Add what settings changed since need; what is there stays."""
        if settings.super_resolution and prediction.enhanced is None:
            prediction.enhanced = self._enhanced(prediction.face)
        if settings.needs_xseg and self.xseg is not None and prediction.xseg_prd is None:
            face = cv2.resize(prediction.face, (XSEG_PX, XSEG_PX))
            prediction.xseg_prd = self._seen(face)
            prediction.xseg_dst = self._seen(input_crop(picture, place, XSEG_PX))

    def _blank(self) -> Prediction:
        side = self.px
        return Prediction(
            np.zeros((side, side, 3), np.float32),
            np.ones((side, side), np.float32),
            np.ones((side, side), np.float32),
        )

    def _swap(self, crops: Sequence[Pixels]) -> list[Prediction]:
        pictures = torch.cat([batch(crop[..., ::-1]) for crop in crops]).to(self.device)
        with torch.inference_mode():
            faces, masks, masks_dst = (t.float().cpu() for t in self.model.network(pictures))
        turned = faces.flip(1).clamp(0, 1).permute(0, 2, 3, 1).contiguous().numpy()
        both = (t[:, 0].clamp(0, 1).numpy() for t in (masks, masks_dst))
        return [Prediction(face, mask, dst) for face, mask, dst in zip(turned, *both)]

    def _enhanced(self, face: Pixels) -> Pixels:
        with self._lock:
            if self._enhancer is None:
                threads = torch.get_num_threads()
                self._enhancer = open_onnx(
                    asset(ENHANCER), device=self.device, threads=threads, dynamic_batch=False
                )
        (large,) = self._enhancer(face[None])
        return np.asarray(large[0].clip(0, 1), np.float32)

    def _seen(self, picture: Pixels) -> Pixels:  # [256, 256, 3] RGB -> [256, 256]
        assert self.xseg is not None
        mask = self.xseg(np.ascontiguousarray(picture[None, ..., ::-1]))[0]
        seen = np.asarray(mask.reshape(XSEG_PX, XSEG_PX), np.float32).clip(0, 1)
        return np.where(seen < XSEG_LEAST, np.float32(0), seen)


def open_xseg(path: Path, device: str = "cpu") -> Network:
    """Open an XSeg network: BGR 0..1 [N, 256, 256, 3] to a mask [N, 256, 256, 1].

    Raises InputError for a file of another signature.
    """
    network = open_onnx(path, device=device, threads=torch.get_num_threads())
    wanted = (XSEG_PX, XSEG_PX)
    shapes = [port.shape[1:] for port in (*network.inputs, *network.outputs)]
    fits = len(shapes) == 2 and shapes[0] == (*wanted, 3) and shapes[1] in (wanted, (*wanted, 1))
    if not fits:
        ports = "; ".join(str(port) for port in (*network.inputs, *network.outputs))
        raise InputError(
            f"{path}: an XSeg network must take [N, 256, 256, 3] and give [N, 256, 256, 1], "
            f"got {ports}"
        )
    return network
