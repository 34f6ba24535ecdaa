"""What works on this machine and why the rest does not: found by trying, not by reading lists.

A provider or encoder that is listed but cannot be opened counts as missing: FFmpeg lists hardware
that is not there, and ONNX Runtime quietly runs on the CPU when CUDA was asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

import accel
from accel.kernels import OPS, _native
from accel.video.encode import ENCODERS
from accel.weights.assets import verify_assets

INSTRUCTIONS = {
    "amx": "AVX-512 and tile registers (AMX)", "avx512": "AVX-512", "avx2": "AVX2",
    "plain": "no AVX2: the plain code paths",
}  # fmt: skip
DECODERS = ("h264", "hevc", "av1", "vp9", "prores", "ffv1", "mjpeg", "gif")


@dataclass(frozen=True)
class Finding:
    """One thing that was tried. `needed` marks what the engine cannot do without."""

    group: str
    name: str
    works: bool
    detail: str
    needed: bool = False


def examine() -> dict[str, Any]:
    """Try everything the engine can use; return findings fit for JSON."""
    findings = [f for group in (_machine, _native_code, _providers, _codecs, _models)
                for f in group()]  # fmt: skip
    return {
        "version": accel.__version__,
        "works": all(f.works for f in findings if f.needed),
        "findings": [asdict(f) for f in findings],
    }


def describe(report: dict[str, Any]) -> str:
    """The report as plain text, one line a finding."""
    lines, group = [f"accel {report['version']}"], None
    for finding in report["findings"]:
        if finding["group"] != group:
            group = finding["group"]
            lines.append(f"\n{group}")
        mark = "ok" if finding["works"] else ("MISSING" if finding["needed"] else "-")
        lines.append(f"  {mark:8}{finding['name']:38} {finding['detail']}")
    verdict = (
        "everything that is needed works" if report["works"] else "something needed is missing"
    )
    return "\n".join([*lines, "", verdict])


def _machine() -> Iterator[Finding]:
    group = "machine"
    yield Finding(group, "python", True, f"{platform.python_version()} on {platform.platform()}")
    yield Finding(group, "cores", True, str(os.cpu_count()))
    yield Finding(group, "torch", True, torch.__version__, needed=True)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for index in range(count):
        size = torch.cuda.get_device_properties(index).total_memory / 2**30
        yield Finding(
            group, f"cuda:{index}", True, f"{torch.cuda.get_device_name(index)}, {size:.0f} GiB"
        )
    if not count:
        built = torch.version.cuda
        reason = "no CUDA device found" if built else "this torch is built for the CPU only"
        yield Finding(group, "cuda", False, f"{reason}; everything runs on the CPU")


def _native_code() -> Iterator[Finding]:
    group = "kernels"
    if _native.module is None:
        detail = (
            f"{_native.reason}; numba serves instead, slower: install a C++ compiler, reinstall"
        )
        yield Finding(group, "native C++", False, detail)
    else:
        level = INSTRUCTIONS[_native.module.conv_isa()]
        detail = f"{level}, {_native.module.max_threads()} threads"
        yield Finding(group, "native C++", True, detail)
    yield _package(group, "numba", "crop, paste and raster without a compiler")
    yield _triton(group)
    absent = {"native"} if _native.module is None else set()
    if not torch.cuda.is_available():
        absent.add("triton")
    for name, op in sorted(OPS.items()):
        names = [i.name for i in op.implementations if i.name not in absent]
        yield Finding(group, f"  {name}", True, " > ".join(names))


def _package(group: str, name: str, purpose: str) -> Finding:
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        return Finding(group, name, False, f"{purpose}: {error}")
    return Finding(group, name, True, f"{module.__version__}, {purpose}")


def _triton(group: str) -> Finding:
    if importlib.util.find_spec("triton") is None:
        return Finding(group, "triton", False, "not installed; GPU kernels need it")
    version = importlib.import_module("triton").__version__
    if not torch.cuda.is_available():
        return Finding(
            group, "triton", False, f"{version} is installed, but there is no GPU for it"
        )
    return Finding(group, "triton", True, version)


def _providers() -> Iterator[Finding]:
    group = "onnx runtime"
    model = _tiny_model()
    onnxruntime.set_default_logger_severity(4)  # refusals are reported below, in one line each
    for provider in onnxruntime.get_available_providers():
        name = provider.removesuffix("ExecutionProvider")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            session = onnxruntime.InferenceSession(
                model, options, providers=[provider], enable_fallback=0
            )
            session.run(None, {"x": np.zeros((1, 1, 4, 4), np.float32)})
            used = session.get_providers()[0]
        except Exception as error:  # every failure of a foreign library is one finding here
            used, reason = "", _short(str(error))
        else:
            reason = f"listed, but falls back to {used}: its libraries are not here"
        works = used == provider
        detail = onnxruntime.__version__ if works else reason
        yield Finding(group, name, works, detail, needed=name == "CPU")


def _short(text: str) -> str:
    """The part of ONNX Runtime's complaint that tells something, on one line."""
    text = " ".join(text.split())
    for start in ("Failed to load library", "Please install", "Require cuDNN"):
        if start in text:
            text = text[text.index(start) :].split(" as mentioned")[0]
            break
    return "listed, but cannot be opened: " + text[:160]


def _tiny_model() -> bytes:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1, 4, 4])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)], ir_version=9)
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data


def _codecs() -> Iterator[Finding]:
    group = f"video (FFmpeg {'.'.join(map(str, av.library_versions['libavcodec']))} libavcodec)"
    os.environ.setdefault("SVT_LOG", "0")  # SVT-AV1 prints its settings otherwise
    for name in ENCODERS:
        yield _try_encoder(group, name)
    for name in DECODERS:
        try:
            av.CodecContext.create(name, "r")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            yield Finding(group, f"read {name}", False, str(error))
        else:
            yield Finding(group, f"read {name}", True, "")


def _try_encoder(group: str, name: str) -> Finding:
    try:
        codec = av.CodecContext.create(name, "w")
        codec.width = codec.height = 256
        codec.time_base = Fraction(1, 25)
        formats = [f.name for f in codec.codec.video_formats or ()]
        codec.pix_fmt = "yuv420p" if "yuv420p" in formats or not formats else formats[0]
        if name == "mjpeg":
            codec.pix_fmt = "yuvj420p"
        codec.options = {"x265-params": "log-level=none"} if name == "libx265" else {}
        codec.open()
    except (av.error.FFmpegError, OSError, ValueError) as error:
        return Finding(group, f"write {name}", False, str(error))
    return Finding(group, f"write {name}", True, "")


def _models() -> Iterator[Finding]:
    for name, problem in verify_assets().items():
        yield Finding("embedded models", name, not problem, problem or "sha256 right", needed=True)
