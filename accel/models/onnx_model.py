"""A checkpoint that was exported to ONNX, run by ONNX Runtime in the networks' place.

    loaded = open_onnx(Path("folder"))     # a Loaded, as accel.models.load.load gives

`loaded.model` answers to what pipelines use of StableDiffusion: `config`, `encode_text`,
`unet(...)`, `vae.encode`, `vae.decode`, `vector`. Weights are inside the graphs, so there is no
LoRA, and no textual inversion: export the model with LoRAs in effect.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from accel.core import Cancel, Cancelled, ConfigError, InputError, read_file, read_json
from accel.models import stable_diffusion as sd
from accel.models.export import GRAPH, PAGE
from accel.models.load import Loaded
from accel.nn.text import TextConfig
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig

KINDS = {"tensor(float16)": torch.float16, "tensor(int64)": torch.int64}  # others are float32


class Session:
    """One graph: tensors in by name, tensors out in order; on the CPU, in the graph's kinds.

    ours: made by this engine and kept where nobody else writes; any other graph is checked first,
    and may have its weights in files of its own folder alone.
    """

    def __init__(self, path: Path, providers: Sequence[str], threads: int, ours: bool = False):
        import onnxruntime as ort

        if not path.is_file():
            raise InputError(f"{path}: must be an ONNX file, found none")
        if not ours:
            _check(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(
                str(path), options, providers=list(providers), read_config_from_model=0
            )
        except Exception as error:  # its classes are not public; the file is the user's
            raise InputError(f"{path}: ONNX Runtime cannot load it: {error}") from error
        self._path = path
        self.cancel: Cancel | None = None  # stops a call that is under way
        self.kinds = {i.name: KINDS.get(i.type, torch.float32) for i in self._session.get_inputs()}
        self.shapes = {i.name: i.shape for i in self._session.get_inputs()}

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        given = {
            name: np.asarray(x.detach().cpu().to(self.kinds[name])) for name, x in inputs.items()
        }
        return [torch.from_numpy(out) for out in self._run(given)]

    def _run(self, given: dict[str, Any]) -> list[Any]:
        try:
            return self._try_to_run(given)
        except Cancelled:
            raise
        except Exception as error:  # its classes are not public; the file is the user's
            raise InputError(
                f"{self._path}: must be the graph that its page describes: {error}"
            ) from None

    def _try_to_run(self, given: dict[str, Any]) -> list[Any]:
        if self.cancel is None:
            found: list[Any] = self._session.run(None, given)
            return found
        from onnxruntime import RunOptions

        options, done = RunOptions(), threading.Event()

        def watch(cancel: Cancel) -> None:
            while not done.wait(0.1):
                if cancel.is_set:
                    options.terminate = True  # between two operators
                    return

        watcher = threading.Thread(target=watch, args=(self.cancel,), daemon=True)
        watcher.start()
        try:
            found = self._session.run(None, given, options)
        except Exception:
            self.cancel.check()  # ONNX Runtime says no more than that it was stopped
            raise
        finally:
            done.set()
        return found


class OnnxUnet:
    """Called as accel.nn.unet.Unet."""

    def __init__(self, session: Session, config: UnetConfig):
        self.session, self.config = session, config
        self.controls = [name for name in session.kinds if name.startswith("control_")]

    def __call__(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        vector: Tensor | None = None,
        control: Sequence[Tensor] | None = None,
    ) -> Tensor:
        inputs = {"x": x, "t": t, "context": context}
        if vector is not None:
            inputs["vector"] = vector
        if control is not None:
            if len(control) != len(self.controls):
                raise ConfigError(
                    f"this UNet was exported for {len(self.controls)} inputs of a ControlNet,"
                    f" got {len(control)}"
                )
            inputs |= dict(zip(self.controls, control, strict=True))
        else:
            inputs |= dict(zip(self.controls, self._nothing(x), strict=True))
        (out,) = self.session(**inputs)
        return out.to(x.device, x.dtype)

    def _nothing(self, x: Tensor) -> list[Tensor]:
        shapes = [self.session.shapes[name] for name in self.controls]
        height, width = x.shape[2:]
        zeros = []
        for i, shape in enumerate(shapes):
            if i and i % (self.config.res_blocks + 1) == 0 and i < len(shapes) - 1:
                height, width = height // 2, width // 2
            zeros.append(torch.zeros(x.shape[0], shape[1], height, width))
        return zeros


class OnnxVae:
    """encode and decode as accel.nn.vae.Vae."""

    def __init__(self, encoder: Session, decoder: Session, config: VaeConfig):
        self.encoder, self.decoder, self.config = encoder, decoder, config

    def encode(self, image: Tensor) -> Tensor:
        return self.encoder(image=image)[0].to(image.device, image.dtype)

    def decode(self, latent: Tensor) -> Tensor:
        return self.decoder(latent=latent)[0].to(latent.device, latent.dtype)


class OnnxModel:
    """What pipelines use of StableDiffusion."""

    def __init__(
        self,
        folder: Path,
        config: sd.Config,
        providers: Sequence[str],
        threads: int,
        ours: bool,
    ):
        def session(name: str) -> Session:
            return Session(folder / name / GRAPH, providers, threads, ours)

        self.config = config
        self.towers = [session(f"text_{i}") for i in range(len(config.towers))]
        self.unet = OnnxUnet(session("unet"), config.unet)
        self.vae = OnnxVae(session("vae_encoder"), session("vae_decoder"), config.vae)

    vector = sd.StableDiffusion.vector

    def sessions(self) -> Iterator[Session]:
        yield from self.towers
        yield from (self.unet.session, self.vae.encoder, self.vae.decoder)

    def encode_text(
        self,
        tokens: Sequence[Tensor],
        clip_skip: int = 1,
        weigh: Callable[[Tensor], Tensor] | None = None,
        insert: Callable[[int, Tensor], Tensor] | None = None,
    ) -> sd.Conditioning:
        """As StableDiffusion.encode_text, without `insert`."""
        if insert is not None:
            raise ConfigError(
                "an exported model cannot take embeddings: its tokens are looked up inside"
            )

        def read(i: int, from_last: int) -> tuple[Tensor, Tensor]:
            hidden, normed, pooled = self.towers[i](tokens=tokens[i])
            chosen = normed if self.config.towers[i].final_norm else hidden
            return chosen[-from_last], pooled

        return sd.conditioning(self.config, read, clip_skip, weigh)


def open_onnx(
    folder: Path,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    ours: bool = False,
) -> Loaded:
    """Open what export_model wrote. threads: of each network; 0 is ONNX Runtime's choice.

    ours: whether nobody else can have changed the graphs; they are checked otherwise.

    Raises InputError where the page or a graph is missing or damaged.
    """
    page = folder / PAGE
    if not page.is_file():
        raise InputError(f"{folder}: must be a folder that accel exported, found no {PAGE}")
    about = read_json(page, "the page of an export")
    try:
        config = config_of(about["config"])
        told = about["name"], about["prediction"], about["zero_terminal_snr"], about["metadata"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{page}: must say what was exported: {error!r}") from error
    model = OnnxModel(folder, config, providers, threads, ours)
    name, prediction, zero_snr, metadata = told
    return Loaded(name, model, prediction, zero_snr, metadata)  # type: ignore[arg-type]


def _check(path: Path) -> None:
    """Refuse a graph that reaches out of its folder, or would grow without end."""
    from accel.weights import onnx_graph  # whose protobuf takes a while to load

    data = read_file(path, onnx_graph.MAX_FILE_BYTES, "an ONNX model")
    onnx_graph.parse(data, str(path), path.parent)


def config_of(about: dict[str, Any]) -> sd.Config:
    """The configuration that an exported folder tells of itself."""
    towers = tuple(
        sd.Tower(**(tower | {"config": made(TextConfig, tower["config"])}))
        for tower in about["towers"]
    )
    parts = {
        "towers": towers,
        "unet": made(UnetConfig, about["unet"]),
        "vae": made(VaeConfig, about["vae"]),
    }
    return sd.Config(**(about | parts))


def made(kind: type[Any], about: dict[str, Any]) -> Any:
    """A config from JSON, whose lists were tuples."""
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(about) - known)
    if unknown:
        raise ValueError(f"{kind.__name__} has no {unknown[0]}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in about.items()})
