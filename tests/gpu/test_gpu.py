"""On a real GPU: whole jobs equal the CPU's, kernels are really used, benchmarks measure it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import accel
from accel.cli import main
from accel.core import ConfigError
from accel.faces.find import find_faces
from accel.kernels._op import OPS, Implementation, Op
from accel.kernels.planes import Planes
from accel.pipelines.demo import PORTRAIT, render_clip
from accel.pipelines.provenance import ProvenanceConfig
from accel.pipelines.swap import swap_video
from accel.video.device import DeviceReader, open_film
from accel.video.read import open_video
from accel.weights.assets import asset
from accel.weights.onnx import open_onnx
from tests.gpu.on_device import moved, on_device


def lumas(path):
    with open_video(path) as reader:
        return [frame.planes.c0.numpy().astype(np.int16) for frame in reader]


@pytest.mark.gpu
def test_a_swap_on_the_gpu_is_the_cpus(tmp_path):
    clip = render_clip(tmp_path / "clip.mp4", 24, 640, 360)
    for device in ("cpu", "cuda"):
        for op in OPS.values():
            op.used.clear()
        swap_video(
            clip, tmp_path / f"{device}.mp4", sources=[asset(PORTRAIT)], device=device,
            provenance=ProvenanceConfig(watermark="off", label="off"),
        )  # fmt: skip
    assert "triton" in OPS["crop"].used
    assert "triton" in OPS["paste"].used
    pairs = zip(lumas(tmp_path / "cpu.mp4"), lumas(tmp_path / "cuda.mp4"), strict=True)
    assert max(np.abs(a - b).mean() for a, b in pairs) < 1.0


@pytest.mark.gpu
def test_a_picture_on_the_gpu_is_the_cpus():
    here, there = (accel.load("nano", device=d) for d in ("cpu", "cuda"))
    options = {"steps": 8, "seed": 3, "output": "latent"}
    a, b = here.sample("a red apple", **options), there.sample("a red apple", **options)
    assert (a - b.cpu()).abs().max() < 2e-2 * a.abs().max()


@pytest.mark.gpu
def test_no_step_of_sampling_waits():
    """What tests/gpu/test_counts_sampling.py counts, asked of the driver."""
    model = accel.load("nano", device="cuda")
    model.sample("a red apple", steps=2, seed=3, output="latent")  # compiles what is missing
    try:
        model.sample(
            "a red apple", steps=4, seed=3, output="latent",
            callback=lambda step, latent: torch.cuda.set_sync_debug_mode("error"),
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_surfaces_hold_what_the_host_decodes(tmp_path):
    clip = render_clip(tmp_path / "clip.mp4", 4, 640, 360)
    with open_film(clip, torch.device("cuda")) as far, open_video(clip) as near:
        if not isinstance(far, DeviceReader):
            pytest.skip(far.notes[0])
        for surface, frame in zip(far, near, strict=True):
            for a, b in zip(surface.planes[:3], frame.planes[:3]):
                assert a.is_cuda
                assert torch.equal(a.cpu(), b)


@pytest.mark.gpu
def test_faces_found_on_the_gpu_are_the_cpus():
    """Detectors decoded on the device, landmarks and identities by bound networks."""
    with open_video(asset(PORTRAIT)) as reader:
        near = next(iter(reader)).planes
    far = Planes(*(plane.cuda() for plane in near[:3]), near.layout)
    try:
        found = find_faces(far, device="cuda")
    except ConfigError as error:
        pytest.skip(str(error))
    expected = find_faces(near)
    assert len(found) == len(expected)
    assert "triton" in OPS["decode_faces"].used
    for got, want in zip(found, expected):
        np.testing.assert_allclose(got.raw, want.raw, atol=1.5)
        np.testing.assert_allclose(got.identity, want.identity, atol=0.05)


@pytest.mark.gpu
def test_a_bound_network_is_the_cpus():
    file = asset("iris_64.fp16w.onnx")
    try:
        network = open_onnx(file, device="cuda")
    except ConfigError as error:
        pytest.skip(str(error))
    x = torch.rand(3, 64, 64, 3)
    expected = open_onnx(file)(x)
    for _ in range(2):  # the second run has learned the sizes
        for got, want in zip(network.on_device(**{network.inputs[0].name: x.cuda()}), expected):
            np.testing.assert_allclose(got.cpu(), want, rtol=1e-2, atol=1e-2 * np.abs(want).max())


@pytest.mark.gpu
def test_bench_measures_the_gpu(tmp_path):
    report = tmp_path / "gpu.json"
    assert main(["bench", "kernels", "--device", "cuda", "--quick", "--json", str(report)]) == 0
    rows = json.loads(report.read_text())["rows"]
    assert rows
    assert {row["device"] for row in rows} == {"cuda"}


def test_arguments_go_there_and_what_was_written_comes_back():
    seen = []

    def add_one(x: torch.Tensor, others: list[torch.Tensor]) -> torch.Tensor:
        seen.append(x)
        x += 1
        others[0] += 2
        return x * 10

    far = on_device(Implementation("far", add_one, lambda *a: ""), True, "cpu")
    x, other = torch.zeros(3), torch.zeros(2)
    assert far.run(x, [other]).tolist() == [10, 10, 10]
    assert seen[0] is not x  # a copy went there
    assert x.tolist() == [1, 1, 1]
    assert other.tolist() == [2, 2]
    assert moved((1, [torch.ones(1)]), "cpu")[1][0].item() == 1


def test_an_op_that_only_reads_keeps_its_arguments():
    geglu: Op = OPS["geglu"]
    x = torch.randn(3, 8)
    before = x.clone()
    native = geglu.implementations[0]
    got = on_device(native, False, "cpu").run(x)
    assert torch.equal(got, native.run(x))
    assert torch.equal(x, before)
