"""Stable Diffusion 1.5's UNet and decoder, full size, beside what else runs them on a CPU.

    python -m benchmarks.pipelines.sd_peers WORK_FOLDER [--network vae] [--peers ort] [--sides 32]
    python -m benchmarks.pipelines.sd_peers WORK_FOLDER --memory

WORK_FOLDER keeps the files that all read: a checkpoint of random weights (4 GB), its networks as
ONNX, and MNN's form of those; 12 GB of disk in all, and 2 GB for a checkpoint in float16. Each
engine runs in a process of its own, which loads its network from its file, as a program would, and
answers one call at a time: two networks of several GB take turns fairly, and neither finds the
other's memory or threads. Peers that are not installed are left out and named.

What is reported for each: seconds from file to the end of the first call (an engine transforms or
compiles weights there), the median of the calls after it, and the largest error against ours. With
`--memory`: the process's largest resident set after a step and a decoding of 512 pixels, computed
in float32 from the checkpoint in float32 and from one in float16, and the seconds from the file to
the end of the step.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import Written, conditions, kept, save

Inputs = dict[str, Tensor]  # by their names in the graph
Call = Callable[[], Tensor]
NEEDS = {
    "accel": None,
    "torch": None,
    "diffusers": "diffusers",
    "ort": "onnxruntime",
    "openvino": "openvino",
    "mnn": "MNN",
}
TITLES = {
    "accel": "accel",
    "torch": "torch's operators",
    "diffusers": "diffusers",
    "ort": "ONNX Runtime",
    "openvino": "OpenVINO",
    "mnn": "MNN",
}
ROUNDS = 3
CHECKPOINTS = {"F32": "sd1.safetensors", "F16": "sd1_float16.safetensors"}


@dataclass(frozen=True)
class Subject:
    """A network that all of them run."""

    case: str  # of a side of the latents
    inputs: Callable[[int], Inputs]
    output: str  # its name in the graph
    export: str  # the function of accel.models.export

    def title(self, side: int) -> str:
        return self.case.format(side=side, pixels=8 * side)


def step_inputs(side: int) -> Inputs:
    make = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, side, side, generator=make)
    context = torch.randn(2, 77, 768, generator=make)
    return {"x": x, "t": torch.full((2,), 500.0), "context": context}


def latent_inputs(side: int) -> Inputs:
    make = torch.Generator().manual_seed(0)
    return {"latent": torch.randn(1, 4, side, side, generator=make)}


SUBJECTS = {
    "unet": Subject(
        "UNet step, {side}x{side} latents x2", step_inputs, "prediction", "export_unet"
    ),
    "vae": Subject("VAE decode, {pixels} px", latent_inputs, "image", "export_vae_decoder"),
}


# ------------------------------------------------------------------ the files that all read


def prepare(work: Path, key: str, peers: list[str]) -> None:
    work.mkdir(parents=True, exist_ok=True)
    checkpoint, graph, mnn = work / "sd1.safetensors", graph_of(work, key), mnn_of(work, key)
    if not checkpoint.exists():
        from tests.pipelines.generate.full_size import write_full_size

        write_full_size(checkpoint)
    if {"ort", "openvino", "mnn"} & set(peers) and not graph.exists():
        export = SUBJECTS[key].export
        apart(f"from accel.models.export import {export}; from accel.models.load import load;"
              f"{export}(load(Path(a)).model.{key}, Path(b))", checkpoint, graph)  # fmt: skip
    if "mnn" in peers and not mnn.exists():
        # The console command installs telemetry; the compiled entry under it does not.
        apart("import _tools; _tools.mnnconvert(['mnnconvert', '-f', 'ONNX', '--modelFile', a,"
              " '--MNNModel', b, '--bizCode', 'x', '--saveExternalData'])", graph, mnn)  # fmt: skip


def graph_of(work: Path, key: str) -> Path:
    return work / key / "model.onnx"


def mnn_of(work: Path, key: str) -> Path:
    return work / f"{key}.mnn"


def apart(program: str, *files: Path) -> None:
    """Run in a process that then gives its memory back."""
    code = f"import sys; from pathlib import Path; a, b = sys.argv[1:]; {program}"
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True, stdout=sys.stderr)


# ------------------------------------------------------------------ one engine, in its process


def accel(work: Path, key: str, given: Inputs, threads: int) -> Call:
    from accel.models.load import load

    model = load(work / "sd1.safetensors").model
    if key == "vae":
        return lambda: model.vae.decode(**given)
    return lambda: model.unet(*given.values())


def torch_(work: Path, key: str, given: Inputs, threads: int) -> Call:
    from benchmarks.pipelines.networks import on_torch

    return on_torch(accel(work, key, given, threads), last=True)  # type: ignore[return-value]


def diffusers(work: Path, key: str, given: Inputs, threads: int) -> Call:
    unet, vae = diffusers_networks(work)
    if key == "vae":
        return lambda: vae.decode(given["latent"] / vae.config.scaling_factor).sample
    return lambda: unet(*given.values()).sample


def diffusers_networks(work: Path, kind: str = "F32") -> tuple[Any, Any]:
    """UNet and autoencoder as diffusers builds them, on the checkpoint's mapped weights.

    Its layers compute in the type of their weights: those of float16 are widened.
    """
    library = importlib.import_module("diffusers")
    from accel.models import diffusers_names as names
    from accel.models.load import load

    loaded = load(work / CHECKPOINTS[kind]).model
    with torch.device("meta"):
        unet = library.UNet2DConditionModel(
            cross_attention_dim=768,
            attention_head_dim=8,
            block_out_channels=(320, 640, 1280, 1280),
            layers_per_block=2,
        )
        vae = library.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=4,
        )
    config = loaded.config
    for ours, theirs, name in (
        (loaded.unet, unet, lambda module: names.unet_module(module, config.unet)),
        (loaded.vae, vae, lambda module: names.vae_module(module, config.vae)),
    ):
        wanted = theirs.state_dict()
        state = {}
        for key, value in ours.state_dict().items():
            module, last = key.rsplit(".", 1)
            path = f"{name(module)}.{last}"
            state[path] = value.view(wanted[path].shape).float()  # 1x1 convolutions and linears
        theirs.load_state_dict(state, assign=True)
        theirs.eval().requires_grad_(False)
    return unet, vae


def ort(work: Path, key: str, given: Inputs, threads: int) -> Call:
    library = importlib.import_module("onnxruntime")
    options = library.SessionOptions()
    options.intra_op_num_threads = threads
    path = str(graph_of(work, key))
    session = library.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {name: value.numpy() for name, value in given.items()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def openvino(work: Path, key: str, given: Inputs, threads: int) -> Call:
    core = importlib.import_module("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(str(graph_of(work, key)))
    model.reshape({name: list(value.shape) for name, value in given.items()})
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = {name: value.numpy() for name, value in given.items()}
    return lambda: torch.from_numpy(
        next(iter(request.infer(feed, share_inputs=True).values())).copy()
    )


def mnn(work: Path, key: str, given: Inputs, threads: int) -> Call:
    library = importlib.import_module("MNN")
    expr = importlib.import_module("MNN.expr")
    settings = {"backend": "CPU", "numThread": threads, "precision": "high"}
    manager = library.nn.create_runtime_manager((settings,))
    module = library.nn.load_module_from_file(
        str(mnn_of(work, key)), list(given), [SUBJECTS[key].output], runtime_manager=manager
    )
    feed = [expr.const(value.numpy(), list(value.shape), expr.NCHW) for value in given.values()]

    def run() -> Tensor:
        result = expr.convert(module.onForward(feed)[0], expr.NCHW)
        return torch.from_numpy(np.array(result.read()).copy())

    return run


ENGINES: dict[str, Callable[[Path, str, Inputs, int], Call]] = {
    "accel": accel,
    "torch": torch_,
    "diffusers": diffusers,
    "ort": ort,
    "openvino": openvino,
    "mnn": mnn,
}


def clock(threads: int) -> float:
    return time.process_time() if threads == 1 else time.perf_counter()


@torch.no_grad()
def worker(name: str, work: Path, key: str, side: int, threads: int) -> None:
    """Load and call once, then call once for each line that comes in."""
    torch.set_num_threads(threads)
    given = SUBJECTS[key].inputs(side)
    start, cpu = time.perf_counter(), time.process_time()
    call = ENGINES[name](work, key, given, threads)
    result = call()
    first = {
        "first_s": time.perf_counter() - start,
        "first_cpu_s": time.process_time() - cpu,
    }
    np.save(result_of(work, name, key, side), result.numpy().ravel())
    print("READY " + json.dumps(first), flush=True)
    for _ in sys.stdin:
        start = clock(threads)
        call()
        print(f"READY {clock(threads) - start}", flush=True)


def result_of(work: Path, name: str, key: str, side: int) -> Path:
    return work / f"result-{name}-{key}-{side}.npy"


class Engine:
    """A worker process."""

    def __init__(self, name: str, work: Path, key: str, side: int, threads: int) -> None:
        command = [sys.executable, "-m", "benchmarks.pipelines.sd_peers", str(work)]
        command += ["--worker", name, "--network", key]
        command += ["--sides", str(side), "--threads", str(threads)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.name = name
        self.first = self.answer()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # libraries print what they like between
            if line.startswith("READY "):
                return json.loads(line.removeprefix("READY "))
        raise EOFError(f"{self.name} ended with {self.process.wait()}")

    def seconds(self) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return float(self.answer())

    def close(self) -> None:
        self.process.communicate()


def compare(work: Path, key: str, side: int, threads: int, peers: list[str]) -> list[Written]:
    """Each peer takes turns with ours, two processes at a time."""
    rows: list[Written] = []
    ours = Engine("accel", work, key, side, threads)
    times: list[float] = []
    for peer in peers:
        try:
            theirs = Engine(peer, work, key, side, threads)
        except EOFError as error:
            print(f"  {side}x{side} {threads} thread(s): {error}", flush=True)
            continue
        pairs = [(ours.seconds(), theirs.seconds()) for _ in range(ROUNDS)]
        theirs.close()
        times += [a for a, _ in pairs]
        ratio = statistics.median(b / a for a, b in pairs)
        row = {
            "implementation": TITLES[peer],
            "median_s": round(statistics.median(b for _, b in pairs), 3),
            "ratio_to_ours": round(ratio, 3),
            "error": apart_by(work, peer, key, side),
            **{k: round(v, 2) for k, v in theirs.first.items()},
        }
        rows.append(row)
        print(f"  {side}x{side} {threads} thread(s) {row}", flush=True)
    ours.close()
    first = {k: round(v, 2) for k, v in ours.first.items()}
    median = round(statistics.median(times), 3) if times else None
    row = {"implementation": "accel", "median_s": median, "ratio_to_ours": 1.0, **first}
    print(f"  {side}x{side} {threads} thread(s) {row}", flush=True)
    case = {"case": SUBJECTS[key].title(side), "threads": threads}
    return [{**case, **row} for row in (row, *rows)]


def apart_by(work: Path, peer: str, key: str, side: int) -> float:
    """Largest difference to our result over the largest value."""
    a, b = (np.load(result_of(work, name, key, side)) for name in ("accel", peer))
    return float(f"{np.abs(a - b).max() / np.abs(a).max():.1e}")


# ------------------------------------------------------------------ memory


@torch.no_grad()
def memory_worker(name: str, work: Path, kind: str) -> None:
    """A step and a decoding of 512 pixels; the largest resident set, files' pages included.

    Weights that are computed with as they are lie mapped to the file: only what is used counts.
    """
    from accel.pipelines.run_report import peak_memory_mb

    torch.set_num_threads(2)
    x, t, context = step_inputs(64).values()
    latent = latent_inputs(64)["latent"]
    if name == "accel":
        from accel import load
        from accel.models.stable_diffusion import Conditioning

        began = time.perf_counter()
        model = load(work / CHECKPOINTS[kind])
        model.denoise(x, t, Conditioning(context, None))
        first = time.perf_counter() - began
        model.decode(latent)
    else:
        began = time.perf_counter()
        unet, vae = diffusers_networks(work, kind)
        _ = unet(x, t, context).sample
        first = time.perf_counter() - began
        _ = vae.decode(latent).sample
    print("READY " + json.dumps([peak_memory_mb(), first]), flush=True)


def memory(work: Path) -> list[Written]:
    rows: list[Written] = []
    half = work / CHECKPOINTS["F16"]
    if not half.exists():
        from tests.pipelines.generate.full_size import write_full_size

        write_full_size(half, kind="F16")
    for kind in CHECKPOINTS:
        for name in ("accel", "diffusers"):
            if NEEDS[name] and not importlib.util.find_spec(name):
                continue
            command = [sys.executable, "-m", "benchmarks.pipelines.sd_peers", str(work)]
            done = subprocess.run(
                [*command, "--memory", "--worker", name, "--weights", kind],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            line = next(x for x in done.stdout.splitlines() if x.startswith("READY "))
            peak, first = json.loads(line.removeprefix("READY "))
            row = {"implementation": name, "weights": kind}
            rows.append(row | {"peak_mb": round(peak), "file_to_step_s": round(first, 1)})
            print(f"  512 px, a step and a decoding: {rows[-1]}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("work", type=Path)
    parser.add_argument("--network", choices=list(SUBJECTS), default="unet")
    parser.add_argument("--peers", nargs="*", choices=list(NEEDS)[1:], default=list(NEEDS)[1:])
    parser.add_argument("--sides", nargs="*", type=int, default=[32, 64])
    parser.add_argument("--threads", nargs="*", type=int, default=[1, 2])
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--worker", choices=list(NEEDS), help=argparse.SUPPRESS)
    parser.add_argument("--weights", choices=list(CHECKPOINTS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker and args.memory:
        return memory_worker(args.worker, args.work, args.weights)
    if args.worker:
        return worker(args.worker, args.work, args.network, args.sides[0], args.threads[0])
    missing = [
        p for p in args.peers if (needed := NEEDS[p]) and not importlib.util.find_spec(needed)
    ]
    if missing:
        print(f"not installed: {', '.join(missing)}")
    peers = [p for p in args.peers if p not in missing]
    prepare(args.work, args.network, peers)
    if args.memory:
        result = {"rows": memory(args.work), **conditions(threads=2)}
        save("memory_sd1", result)
        return None
    rows = []
    for threads in args.threads:
        for side in args.sides:
            rows += compare(args.work, args.network, side, threads, peers)
    name = f"{args.network}_peers"
    rows = kept(name, rows, "case", "threads", "implementation") + rows
    save(name, {"rows": rows, "not_installed": missing, **conditions(threads=1)})
    return None


if __name__ == "__main__":
    main()
