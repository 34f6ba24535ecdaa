"""Whole networks of Stable Diffusion 1.5, full size and random weights, on one thread.

    python -m benchmarks.pipelines.networks [vae] [unet] [peers]

Beside the same networks on torch's own operators (contiguous and channels-last) and, with `peers`,
diffusers where it is installed and ONNX Runtime for the decoder. The first call is reported too: it
holds whatever an engine does to weights before it can start.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from accel.kernels import OPS
from accel.models.export import export_vae_decoder
from accel.nn import attention, control, layers, unet, vae
from accel.nn.unet import Unet, UnetConfig
from accel.nn.vae import Vae, VaeConfig
from benchmarks.harness import Written, conditions, save

Call = Callable[[], object]
ROUNDS = 3


@contextmanager
def torch_operators(last: bool) -> Iterator[None]:
    """Within it every operator is its reference, and activations lie as torch's users have them."""
    before = {op: op.implementations for op in OPS.values()}
    layout, modules = layers.channels_last, (attention, control, unet, vae)
    for op in before:
        op.implementations = [i for i in op.implementations if i.name == "reference"]
    for module in modules:
        if not last and hasattr(module, "channels_last"):
            setattr(module, "channels_last", lambda x: x)  # noqa: B010
    try:
        yield
    finally:
        for op, implementations in before.items():
            op.implementations = implementations
        for module in modules:
            if hasattr(module, "channels_last"):
                setattr(module, "channels_last", layout)  # noqa: B010


Network = TypeVar("Network", bound=nn.Module)


def random_weights(make: Callable[[], Network]) -> Network:
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu").eval().requires_grad_(False)
    torch.manual_seed(0)
    for tensor in network.parameters():
        if tensor.ndim > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5)
        else:
            tensor.fill_(0.5)
    return network


def on_torch(call: Call, last: bool) -> Call:
    def run() -> object:
        with torch_operators(last):
            return call()

    return run


def decoder(side: int, peers: bool) -> tuple[str, dict[str, Call]]:
    network = random_weights(lambda: Vae(VaeConfig()))
    latent = torch.randn(1, 4, side // 8, side // 8)

    def ours() -> object:
        return network.decode(latent)

    name, calls = f"VAE decode, {side} px", {"accel": ours, **both_layouts(ours)}
    if not peers:
        return name, calls
    with tempfile.TemporaryDirectory() as folder:
        import onnxruntime

        path = export_vae_decoder(network, Path(folder, "decoder.onnx"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    feed = {session.get_inputs()[0].name: latent.numpy()}
    calls["ONNX Runtime"] = lambda: session.run(None, feed)[0]
    return name, calls


def step(side: int, peers: bool) -> tuple[str, dict[str, Call]]:
    network = random_weights(lambda: Unet(UnetConfig()))
    x, t, context = torch.randn(2, 4, side, side), torch.full((2,), 500.0), torch.randn(2, 77, 768)

    def ours() -> object:
        return network(x, t, context)

    name, calls = f"UNet step, {side}x{side} latents x2", {"accel": ours, **both_layouts(ours)}
    if not peers:
        return name, calls
    try:
        from diffusers import UNet2DConditionModel
    except ImportError:
        return name, calls
    theirs = random_weights(
        lambda: UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
    )
    calls["diffusers"] = lambda: theirs(x, t, context).sample
    return name, calls


def both_layouts(call: Call) -> dict[str, Call]:
    return {
        "torch's operators": on_torch(call, last=False),
        "torch's operators, channels-last": on_torch(call, last=True),
    }


def measure(name: str, calls: dict[str, Call]) -> list[Written]:
    """First call, then the median of calls run in turn; results of one network must agree."""
    results, first = {}, {}
    for label, call in calls.items():
        start = time.process_time()
        results[label] = call()
        first[label] = time.process_time() - start
    expected = results["torch's operators"]
    assert isinstance(expected, Tensor)
    for label, result in results.items():
        got = torch.as_tensor(result)
        error = float((got - expected).abs().max() / expected.abs().max())
        if label != "diffusers" and not error < 1e-3:  # which has other random weights
            raise SystemExit(f"{name}: {label} differs from torch's operators by {error}")
    times: dict[str, list[float]] = {label: [] for label in calls}
    for _ in range(ROUNDS):
        for label, call in calls.items():
            start = time.process_time()
            call()
            times[label].append(time.process_time() - start)
    medians = {label: statistics.median(series) for label, series in times.items()}
    rows = []
    for label, seconds in medians.items():
        ratio = seconds / medians["accel"]
        print(f"  {name:28} {label:34}{seconds:8.3f} s {ratio:6.2f} x  first {first[label]:.2f} s")
        rows.append(
            {
                "case": name,
                "implementation": label,
                "median_s": round(seconds, 3),
                "first_s": round(first[label], 3),
                "ratio_to_ours": round(ratio, 3),
            }
        )
    return rows


@torch.no_grad()
def main(names: list[str] | None = None) -> None:
    torch.set_num_threads(1)
    wanted = set(names or ("vae", "unet", "peers"))
    for name, make, side in (("vae", decoder, 256), ("unet", step, 32)):
        if name in wanted:
            rows = measure(*make(side, "peers" in wanted))
            save(f"network_{name}", {"rows": rows, **conditions(threads=1)})


if __name__ == "__main__":
    main(sys.argv[1:])
