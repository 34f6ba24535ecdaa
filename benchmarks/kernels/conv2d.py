"""Convolutions of diffusion networks and swappers, beside torch's layouts and other engines.

`reference` is torch with contiguous tensors. Peers that are not installed are left out. A network's
activations lie channels-last here and contiguous in torch's default, so both are timed; `packed`
weights are packed once, as accel.nn.Conv2d does it.

    python -m benchmarks.kernels.conv2d [--only "3 to 64"]
"""

from __future__ import annotations

import argparse
import importlib
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from accel.kernels.conv2d import op, pack
from benchmarks.harness import Args, Call, bench_kernel, kept, save

LAST = torch.channels_last
# batch, inputs, outputs, height, width, kernel, stride
SHAPES = {
    "3x3 320, 64x64": (1, 320, 320, 64, 64, 3, 1),
    "3x3 640, 32x32 x2": (2, 640, 640, 32, 32, 3, 1),
    "3x3 1280, 16x16": (1, 1280, 1280, 16, 16, 3, 1),
    "3x3 1280, 8x8 x2": (2, 1280, 1280, 8, 8, 3, 1),
    "3x3 2560 to 1280, 16x16 x2": (2, 2560, 1280, 16, 16, 3, 1),
    "3x3 512, 64x64": (1, 512, 512, 64, 64, 3, 1),
    "3x3 256, 128x128": (1, 256, 256, 128, 128, 3, 1),
    "3x3 128, 256x256": (1, 128, 128, 256, 256, 3, 1),
    "3x3 320, 17x23": (1, 320, 320, 17, 23, 3, 1),
    "3x3 160, 24x40 x2": (2, 160, 160, 24, 40, 3, 1),
    "3x3 96 to 200, 45x77": (1, 96, 200, 45, 77, 3, 1),
    "3x3 64, 112x112": (1, 64, 64, 112, 112, 3, 1),
    "3x3 48, 64x64": (1, 48, 48, 64, 64, 3, 1),
    "3x3 32 to 64, 128x72": (1, 32, 64, 128, 72, 3, 1),
    "3x3 16 to 32, 96x96": (1, 16, 32, 96, 96, 3, 1),
    "3x3 3 to 64, 256x256": (1, 3, 64, 256, 256, 3, 1),
    "3x3 128 to 3, 256x256": (1, 128, 3, 256, 256, 3, 1),
    "3x3 stride 2 320, 64x64": (1, 320, 320, 64, 64, 3, 2),
    "5x5 stride 2 128 to 256, 64x64": (1, 128, 256, 64, 64, 5, 2),
    "1x1 320, 64x64 x2": (2, 320, 320, 64, 64, 1, 1),
    "1x1 1280 to 640, 32x32 x2": (2, 1280, 640, 32, 32, 1, 1),
}


def case(
    batch: int, inputs: int, outputs: int, height: int, width: int, kernel: int, stride: int,
    layout: torch.memory_format = torch.contiguous_format,
) -> Args:  # fmt: skip
    make = torch.Generator().manual_seed(0)
    x = torch.randn(batch, inputs, height, width, generator=make).contiguous(memory_format=layout)
    weight = torch.randn(outputs, inputs, kernel, kernel, generator=make)
    bias = torch.randn(outputs, generator=make)
    weight /= (inputs * kernel * kernel) ** 0.5
    return x, weight, bias, None, stride, kernel // 2, 1, 1.0


def peers(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, residual: torch.Tensor | None,
    stride: int, padding: int, groups: int, slope: float,
) -> dict[str, Call]:  # fmt: skip
    found: dict[str, Call] = {}
    last, weight_last = x.contiguous(memory_format=LAST), weight.contiguous(memory_format=LAST)
    args = x, weight, bias, residual, stride, padding, groups, slope
    native = [i for i in op.implementations if i.name == "native" and not i.why_not(*args)]
    if native:
        ready = pack(weight, stride)
        found["native, channels-last"] = lambda: native[0].run(last, *args[1:])
        found["native, packed"] = lambda: native[0].run(x, *args[1:], ready)
        found["native, packed, channels-last"] = lambda: native[0].run(last, *args[1:], ready)
    found["torch, channels-last"] = lambda: F.conv2d(last, weight_last, bias, stride, padding)
    try:
        found["torch, packed weights"] = packed(last, weight_last, bias, stride, padding)
    except (AttributeError, RuntimeError) as error:
        print(f"torch has no packed convolution here: {error}")
    for name, make in (
        ("ONNX Runtime", onnxruntime),
        ("OpenVINO", openvino),
        ("ncnn", ncnn),
        ("MNN", mnn),
    ):
        try:
            found[name] = make(x, weight, bias, stride, padding)
        except ImportError:
            continue
    expected = F.conv2d(x, weight, bias, stride, padding)
    for name, call in found.items():
        got = call()
        got = got if torch.is_tensor(got) else torch.from_numpy(np.array(got)).view_as(expected)
        off = float((got - expected).abs().max() / expected.abs().max())
        if not off < 1e-2:
            raise SystemExit(f"{name} differs from torch by {off}")
    return found


def packed(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> Call:
    """Return torch's convolution with weights in oneDNN's own order, both channels-last."""
    pairs = [padding] * 2, [stride] * 2, [1, 1]
    ordered = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
        weight.to_mkldnn(), *pairs, 1, list(x.shape)
    )
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, ordered, bias, *pairs, 1, "none", [], ""
    )


def as_onnx(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(
        "Conv", ["x", "w", "b"], ["y"], pads=[padding] * 4, strides=[stride] * 2
    )
    shape = F.conv2d(x[:, :, :, :], weight, bias, stride, padding).shape
    graph = helper.make_graph(
        [node],
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(t.numpy(), n) for t, n in ((weight, "w"), (bias, "b"))],
    )
    opset = [helper.make_opsetid("", 13)]
    model: bytes = helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()
    return model


def onnxruntime(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> Call:
    runtime = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = as_onnx(x, weight, bias, stride, padding)
    session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feed = {"x": x.numpy()}
    return lambda: session.run(None, feed)[0]


def openvino(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> Call:
    core = importlib.import_module("openvino").Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = core.read_model(as_onnx(x, weight, bias, stride, padding))
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = {"x": x.numpy()}
    return lambda: next(iter(request.infer(feed, share_inputs=True).values()))


def ncnn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> Call:
    library = importlib.import_module("ncnn")
    outputs, _, kernel, _ = weight.shape
    text = (
        "7767517\n2 2\nInput in 0 1 in\nConvolution conv 1 1 in out"
        f" 0={outputs} 1={kernel} 11={kernel} 3={stride} 13={stride} 4={padding} 14={padding}"
        f" 5=1 6={weight.numel()}\n"
    )
    network = library.Net()
    network.opt.num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        param, binary = Path(folder, "conv.param"), Path(folder, "conv.bin")
        param.write_text(text)
        binary.write_bytes(struct.pack("I", 0) + weight.numpy().tobytes() + bias.numpy().tobytes())
        network.load_param(str(param))
        network.load_model(str(binary))
    mats = [library.Mat(image.numpy()) for image in x]

    def run() -> object:
        results = []
        for mat in mats:
            extractor = network.create_extractor()
            extractor.input("in", mat)
            results.append(np.array(extractor.extract("out")[1]))
        return np.stack(results)

    return run


def mnn(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, padding: int
) -> Call:
    library = importlib.import_module("MNN")
    tools = importlib.import_module("_tools")  # its console command installs telemetry
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "conv.onnx"), Path(folder, "conv.mnn")
        source.write_bytes(as_onnx(x, weight, bias, stride, padding))
        tools.mnnconvert(
            ["mnnconvert", "-f", "ONNX", "--modelFile", str(source)]
            + ["--MNNModel", str(target), "--bizCode", "x"]
        )
        settings = {
            "backend": "CPU",
            "numThread": torch.get_num_threads(),
            "precision": "high",
        }
        manager = library.nn.create_runtime_manager((settings,))
        module = library.nn.load_module_from_file(
            str(target), ["x"], ["y"], runtime_manager=manager
        )
    expr = importlib.import_module("MNN.expr")
    given = expr.convert(expr.const(x.numpy(), list(x.shape), expr.NCHW), expr.NC4HW4)
    given.read()

    def run() -> object:
        return expr.convert(module.onForward([given])[0], expr.NCHW).read()

    return run


def main(only: str = "") -> None:
    """only: cases with this in their name; the rows of the others are kept."""
    torch.set_num_threads(1)  # other engines ask how many, and wait at work with more than one
    cases = [(label, case(*shape)) for label, shape in SHAPES.items() if only in label]
    rows = kept(op.name, [{"case": label} for label, _ in cases], "case")
    with torch.no_grad():
        result = bench_kernel(op, cases, peers=peers, rounds=7)
    every: list[Mapping[str, object]] = [*result["rows"]]
    every += [row for row in rows if row["case"] in SHAPES]
    every.sort(key=lambda row: list(SHAPES).index(str(row["case"])))
    save(op.name, {**result, "rows": every})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases with this in their name; others are kept")
    main(parser.parse_args().only)
