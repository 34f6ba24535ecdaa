"""Whole networks and whole jobs: what a user waits for."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from accel.core import ConfigError
from accel.models.onnx import load_onnx
from accel.nn.vae import Vae, VaeConfig
from accel.pipelines.bench.machine import Ceilings
from accel.pipelines.bench.measure import Row, difference, interleaved, timing
from accel.pipelines.demo import PORTRAIT, render_clip
from accel.pipelines.generate.model import load
from accel.pipelines.swap import swap_video
from accel.weights.assets import asset

FACE_NETWORKS = ("blazeface_back_256.fp16w.onnx", "facemesh_468_192.fp16w.onnx",
                 "iris_64.fp16w.onnx")  # fmt: skip
# Of the largest value: whole networks sum up what their kernels round; GPUs multiply in TF32.
TOLERANCE = {"cpu": 2e-4, "cuda": 2e-2}
CHECKED = 8  # latent pixels across, on which the decoder is compared with itself in float64


def bench_networks(device: torch.device, *, quick: bool = False) -> Iterator[Row]:
    """The embedded face networks, the decoder of SD 1.5 with random weights, nano's UNet."""
    if device.type == "cpu":
        for name in FACE_NETWORKS:
            yield _face_network(name)
    yield _decoder(device, 16 if quick else 32)
    yield _denoise(device)


def _face_network(name: str) -> Row:
    ours = load_onnx(asset(name))
    peer = load_onnx(asset(name), runtime="onnxruntime", threads=1)
    port = peer.ports[0]
    shape = [s if isinstance(s, int) else 1 for s in port.shape]
    feed = {port.name: np.random.default_rng(0).random(shape, np.float32)}
    got, want = ours.run(feed), peer.run(feed)
    error = max(difference(torch.tensor(got[k]), torch.tensor(want[k])) for k in want)
    _refuse_wrong(name, error, "cpu")
    calls = {"accel": lambda: ours.run(feed), "onnxruntime": lambda: peer.run(feed)}
    times = interleaved(calls, rounds=9, device=torch.device("cpu"))
    return Row(
        group="networks", name=name.split(".")[0], case="one face", device="cpu", threads=1,
        seconds=times["accel"].seconds, spread=times["accel"].spread,
        rate=1 / times["accel"].seconds, unit="faces/s", error=error,
        peers={"onnxruntime": times["onnxruntime"].seconds / times["accel"].seconds},
    )  # fmt: skip


def _refuse_wrong(name: str, error: float, kind: str) -> None:
    if not error <= TOLERANCE[kind]:
        raise ConfigError(
            f"bench: {name}: its error must be at most {TOLERANCE[kind]}, got {error:.1e}"
        )


def _decoder(device: torch.device, side: int) -> Row:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = Vae(VaeConfig()).eval().to(device)
        latent = torch.randn(1, 4, side, side).to(device)
    with torch.inference_mode():
        corner = latent[:, :, :CHECKED, :CHECKED]
        exact = copy.deepcopy(vae).double().decode(corner.double())  # by torch's operators alone
        error = difference(vae.decode(corner), exact)
        _refuse_wrong("SD 1.5 decoder", error, device.type)
        del exact
        threads = torch.get_num_threads()
        times = interleaved(
            {"accel": lambda: vae.decode(latent)}, rounds=3, device=device, threads=threads
        )
    ours = times["accel"]
    return Row(
        group="networks", name="SD 1.5 decoder", case=f"{side * 8}x{side * 8}", device=device.type,
        threads=threads, seconds=ours.seconds, spread=ours.spread,
        rate=(side * 8) ** 2 / ours.seconds / 1e6, unit="Mpixel/s", error=error,
    )  # fmt: skip


def _denoise(device: torch.device) -> Row:
    model = load("nano", device=str(device))
    conditioning = model.encode_text("a red apple")
    side = model.encode(torch.zeros(1, 3, 64, 64, device=device)).shape[-1]
    x = torch.randn(1, 4, side, side, generator=torch.Generator().manual_seed(0)).to(device)
    t = torch.tensor([500.0], device=device)
    context = conditioning.context.double()
    with torch.inference_mode():
        exact = copy.deepcopy(model.loaded.model.unet).double()(x.double(), t, context, None)
    error = difference(model.denoise(x, t, conditioning), exact)
    _refuse_wrong("nano UNet", error, device.type)
    times = interleaved(
        {"accel": lambda: model.denoise(x, t, conditioning)}, rounds=9, device=device
    )
    ours = times["accel"]
    return Row(
        group="networks", name="nano UNet", case="one step, 64x64", device=device.type, threads=1,
        seconds=ours.seconds, spread=ours.spread, rate=1 / ours.seconds, unit="steps/s",
        error=error,
    )  # fmt: skip


def bench_swap(device: torch.device, ceilings: Ceilings, *, quick: bool = False) -> Iterator[Row]:
    """A rendered clip swapped end to end, marks and all, against bare decoding and encoding."""
    frames, rounds = (48, 1) if quick else (120, 3)
    for label, width, height in (("360p", 640, 360), ("1080p", 1920, 1080)):
        with tempfile.TemporaryDirectory() as folder:
            clip = render_clip(Path(folder) / "clip.mp4", frames, width, height)
            out, seconds = Path(folder) / "out.mp4", []
            for _ in range(rounds):
                start = time.perf_counter()
                swap_video(clip, out, sources=[asset(PORTRAIT)], device=str(device), overwrite=True)
                seconds.append(time.perf_counter() - start)
        took = timing(seconds)
        top = ceilings.transcode_fps if label == "1080p" else None
        yield Row(
            group="swap", name="mesh swap, whole job", case=f"{label}, {frames} frames",
            device=device.type, threads=torch.get_num_threads(), seconds=took.seconds,
            spread=took.spread, rate=frames / took.seconds, unit="frames/s",
            limit="bare transcode" if top else "",
            share=frames / took.seconds / top if top else None,
        )  # fmt: skip


def bench_generate(device: torch.device, *, quick: bool = False) -> Iterator[Row]:
    """Pictures of the embedded model, prompt to pixels."""
    model = load("nano", device=str(device))
    for count in (1,) if quick else (1, 4):
        seconds = []
        for _ in range(2 if quick else 4):
            start = time.perf_counter()
            model.sample("a red apple", steps=20, seed=1, count=count)
            seconds.append(time.perf_counter() - start)
        took = timing(seconds[1:])  # the first call loads what is loaded once
        yield Row(
            group="generate", name="nano, 20 steps", case=f"{count} at a time, 64x64",
            device=device.type, threads=torch.get_num_threads(), seconds=took.seconds,
            spread=took.spread, rate=count / took.seconds, unit="pictures/s",
        )  # fmt: skip
