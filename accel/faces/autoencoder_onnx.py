"""A face autoencoder as an ONNX graph with the inputs and outputs of a .dfm file.

In: `in_face:0` [N, R, R, 3], blue, green, red, 0..1. Out, in this order: `out_face_mask:0`
[N, R, R, 1], the destination's mask; `out_celeb_face:0` [N, R, R, 3], the source's face;
`out_celeb_face_mask:0` [N, R, R, 1]. Operator set 12, as DeepFaceLive's files have.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from accel.faces.autoencoder import (
    NORM_EPS,
    Autoencoder,
    Decoder,
    Downscale,
    Encoder,
    Inter,
    Residual,
    Upscale,
)

OPSET, IR = 12, 7
INPUT = "in_face:0"
OUTPUTS = ("out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0")
NCHW, NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def to_onnx(model: Autoencoder, metadata: dict[str, str] | None = None) -> bytes:
    """The swap of `model` as a file's bytes. metadata: kept in it as it is."""
    writer = _Writer(model)
    writer.swap(model)
    side = model.config.resolution
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", side, side, channels])
        for name, channels in zip(OUTPUTS, (1, 3, 1))
    ]
    given = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", side, side, 3])
    graph = helper.make_graph(writer.nodes, "autoencoder", [given], outputs, writer.constants)
    made = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
        producer_name="accel",
    )
    helper.set_model_props(made, metadata or {})
    onnx.checker.check_model(made)
    content: bytes = made.SerializeToString()
    return content


class _Writer:
    def __init__(self, model: Autoencoder) -> None:
        self.config = model.config
        self.names = {module: name for name, module in model.named_modules()}
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.known: set[str] = set()
        self.count = 0

    def swap(self, model: Autoencoder) -> None:
        code = self.encoder(model.encoder, self.node("Transpose", [INPUT], perm=NCHW))
        if model.config.kind == "df":
            code = self.inter(model.inter, code)
            face, mask = self.face(model.decoder_src, code), self.mask(model.decoder_src, code)
            mask_dst = self.mask(model.decoder_dst, code)
        else:
            ab, b = self.inter(model.inter_AB, code), self.inter(model.inter_B, code)
            swapped = self.node("Concat", [ab, ab], axis=1)
            face, mask = self.face(model.decoder, swapped), self.mask(model.decoder, swapped)
            mask_dst = self.mask(model.decoder, self.node("Concat", [b, ab], axis=1))
        for name, value in zip(OUTPUTS, (mask_dst, face, mask)):
            self.node("Transpose", [value], out=name, perm=NHWC)

    def encoder(self, part: Encoder, x: str) -> str:
        if part.config.has("t"):
            x = self.downscale(part.down1, x)
            x = self.residual(part.res1, x)
            for i in (2, 3, 4, 5):
                x = self.downscale(part.get_submodule(f"down{i}"), x)
            x = self.residual(part.res5, x)
        else:
            for down in part.down1.children():
                x = self.downscale(down, x)
        x = self.node("Flatten", [x], axis=1)
        if part.config.has("u"):
            power = self.node("ReduceMean", [self.node("Mul", [x, x])], axes=[1], keepdims=1)
            eps = self.constant("norm_eps", np.array(NORM_EPS, np.float32))
            length = self.node("Sqrt", [self.node("Add", [power, eps])])
            x = self.node("Div", [x, length])
        return x

    def inter(self, part: Inter, x: str) -> str:
        for dense in (part.dense1, part.dense2):
            x = self.node("Gemm", [x, *self.weights(dense)], transB=1)
        side = self.config.dense_px
        shape = np.array([-1, part.out_channels, side, side], np.int64)
        x = self.node("Reshape", [x, self.constant(f"{self.names[part]}.shape", shape)])
        return x if self.config.has("t") else self.upscale(part.upscale1, x)

    def face(self, part: Decoder, x: str) -> str:
        for i in range(part.steps):
            x = self.upscale(part.get_submodule(f"upscale{i}"), x)
            x = self.residual(part.get_submodule(f"res{i}"), x)
        if not self.config.has("d"):
            return self.node("Sigmoid", [self.conv(part.out_conv, x)])
        # The four convolutions as one: that of one pixel's width is one of three with a rim of 0.
        names = ("out_conv", "out_conv1", "out_conv2", "out_conv3")
        states = [part.get_submodule(name).state_dict() for name in names]
        wide = [nn.functional.pad(states[0]["weight"], [1] * 4)] + [s["weight"] for s in states[1:]]
        name = f"{self.names[part]}.out_convs"
        both = [
            self.constant(f"{name}.{kind}", torch.stack(tensors, 1).flatten(0, 1))
            for kind, tensors in (("weight", wide), ("bias", [s["bias"] for s in states]))
        ]
        x = self.node("Conv", [x, *both], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
        return self.node("Sigmoid", [self.shuffle(x)])

    def mask(self, part: Decoder, x: str) -> str:
        for i in range(part.steps + self.config.has("d")):
            x = self.upscale(part.get_submodule(f"upscalem{i}"), x)
        return self.node("Sigmoid", [self.conv(part.out_convm, x)])

    def downscale(self, part: nn.Module, x: str) -> str:
        assert isinstance(part, Downscale)
        return self.activate(self.conv(part.conv1, x), 0.1)

    def upscale(self, part: nn.Module, x: str) -> str:
        assert isinstance(part, Upscale)
        return self.shuffle(self.activate(self.conv(part.conv1, x), 0.1))

    def residual(self, part: nn.Module, x: str) -> str:
        assert isinstance(part, Residual)
        inner = self.activate(self.conv(part.conv1, x), 0.2)
        return self.activate(self.node("Add", [x, self.conv(part.conv2, inner)]), 0.2)

    def activate(self, x: str, slope: float) -> str:
        if self.config.has("c"):
            return self.node("Mul", [x, self.node("Cos", [x])])
        return self.node("LeakyRelu", [x], alpha=slope)

    def shuffle(self, x: str) -> str:
        return self.node("DepthToSpace", [x], blocksize=2, mode="CRD")

    def conv(self, conv: nn.Conv2d, x: str) -> str:
        (kernel, _), (stride, _) = conv.kernel_size, conv.stride
        return self.node(
            "Conv",
            [x, *self.weights(conv)],
            kernel_shape=[kernel] * 2,
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
        )

    def weights(self, layer: nn.Conv2d | nn.Linear) -> list[str]:
        name = self.names[layer]
        assert layer.bias is not None  # every layer of these networks has one
        return [
            self.constant(f"{name}.weight", layer.weight),
            self.constant(f"{name}.bias", layer.bias),
        ]

    def constant(self, name: str, value: Any) -> str:
        if name not in self.known:
            self.known.add(name)
            if isinstance(value, torch.Tensor):
                value = value.detach().cpu().float().contiguous().numpy()
            self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], out: str = "", **attributes: Any) -> str:
        self.count += 1
        out = out or f"{kind.lower()}_{self.count}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out
