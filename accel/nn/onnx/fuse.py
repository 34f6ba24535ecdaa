"""Rewrites of a graph's steps that leave its meaning: fewer passes over memory for the same sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.nn.onnx.convolve import convolve
from accel.nn.onnx.fuse_attention import attentions, einsums, tiled_adds
from accel.nn.onnx.fuse_linear import linears
from accel.nn.onnx.fuse_norms import (
    channel_norms,
    group_norms,
    instance_norms,
    layer_norms,
    scaled_norms,
)
from accel.nn.onnx.fuse_pointwise import gates, gelus
from accel.nn.onnx.ops import Attributes, op
from accel.nn.onnx.plan import Step, readers
from accel.nn.onnx.wiring import Constants, Wiring, other


def fuse(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Apply every rewrite, in the order that lets each see what the one before it made."""
    read = readers(steps, outputs)
    done: list[Step] = []
    renamed: dict[str, str] = {}
    for step in steps:
        if _does_nothing(step, read, outputs):
            renamed[step.outputs[0]] = step.inputs[0]
        else:
            done.append(step)
    for step in done:
        step.inputs = [_follow(renamed, name) for name in step.inputs]
    for rewrite in (
        batch_norms, linears, group_norms, instance_norms, scaled_norms, layer_norms,
        channel_norms, gelus, gates, einsums, tiled_adds, attentions, residuals, activations,
        depth_to_space,
    ):  # fmt: skip
        done = rewrite(done, constants, outputs)
    return done


def _does_nothing(step: Step, read: Counter[str], outputs: Sequence[str]) -> bool:
    if step.outputs[0] in outputs or step.kind not in ("Identity", "Dropout"):
        return False
    return len(step.inputs) < 3 and not any(read[name] for name in step.outputs[1:] if name)


def _follow(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


def batch_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Fold a batch norm that follows a convolution into the convolution's weights."""
    graph, gone = Wiring(steps, outputs), set()
    for step in steps:
        norm = graph.only_reader(step.outputs[0], "BatchNormalization")
        turned = step.kind == "ConvTranspose" and step.attributes.get("group", 1) == 1
        if (step.kind != "Conv" and not turned) or norm is None or len(norm.outputs) > 1:
            continue
        names = [*step.inputs[1:], *norm.inputs[1:]]
        if any(name and name not in constants for name in names):
            continue
        scale, shift, mean, variance = (constants[name].double() for name in norm.inputs[1:5])
        factor = scale / (variance + norm.attributes.get("epsilon", 1e-5)).sqrt()
        weight = constants[step.inputs[1]]
        if factor.shape != weight.shape[turned : turned + 1]:  # else they would broadcast
            continue
        has_bias = len(step.inputs) > 2 and step.inputs[2]
        bias = constants[step.inputs[2]].double() if has_bias else 0.0
        made = f"{norm.outputs[0]}/folded"
        constants[made + "/weight"] = (
            weight.double() * factor.view(*[1] * turned, -1, *[1] * (weight.ndim - 1 - turned))
        ).to(weight.dtype)
        constants[made + "/bias"] = (shift + (bias - mean) * factor).to(weight.dtype)
        step.inputs = [step.inputs[0], made + "/weight", made + "/bias"]
        step.outputs = norm.outputs
        gone.add(id(norm))
    return [step for step in steps if id(step) not in gone]


def residuals(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Let a convolution add the tensor that is added to its result right after."""
    graph, result = Wiring(steps, outputs), list(steps)
    for step in steps:
        added = graph.only_reader(step.outputs[0], "Add") if step.kind == "Conv" else None
        if added is None or not _is_picture(step, constants) or len(step.inputs) > 3:
            continue
        skip = other(added, step.outputs[0])
        if skip in constants or skip == step.outputs[0]:
            continue
        maker = graph.made.get(skip)
        if maker is None or not _same_shape(step, maker, graph, constants):
            continue
        step.inputs = [*step.inputs, *[""] * (3 - len(step.inputs)), skip]
        step.outputs = added.outputs
        graph.made[step.outputs[0]] = step
        result.remove(step)
        result[next(i for i, s in enumerate(result) if s is added)] = step
    return result


def _is_picture(step: Step, constants: Constants) -> bool:
    weight = constants.get(step.inputs[1])
    return weight is not None and weight.ndim == 4 and step.attributes.get("group", 1) == 1


def _same_shape(step: Step, maker: Step, graph: Wiring, constants: Constants) -> bool:
    """Whether both surely have the same number of channels and pixels (else Add broadcasts).

    Shown for a block whose convolutions keep the size and whose skip comes from where they began.
    """
    at = step
    for _ in range(12):  # up the chain that leads to the convolution
        if not _keeps_size(at, constants):
            return False
        source = at.inputs[0]
        if source in maker.outputs:
            channels = constants[step.inputs[1]].shape[0]
            first = constants.get(at.inputs[1]) if at.kind == "Conv" else None
            return first is not None and first.shape[1] == channels
        above = graph.made.get(source)
        if above is None:
            return False
        at = above
    return False


def _keeps_size(step: Step, constants: Constants) -> bool:
    if step.kind in ("Relu", "LeakyRelu", "PRelu", "Sigmoid", "Clip", "accel.instance_norm"):
        return True
    if step.kind in ("InstanceNormalization", "BatchNormalization"):
        return True
    weight = constants.get(step.inputs[1]) if step.kind == "Conv" else None
    if weight is None or weight.ndim != 4 or step.attributes.get("group", 1) != 1:
        return False
    a, kernel = step.attributes, list(weight.shape[2:])
    if a.get("auto_pad", "NOTSET") not in ("NOTSET", "") or set(a.get("dilations", [1])) != {1}:
        return False
    pads = a.get("pads", [0, 0, 0, 0])
    return set(a.get("strides", [1])) == {1} and all(
        pads[i] + pads[2 + i] == kernel[i] - 1 for i in range(2)
    )


@op("accel.conv")
def fused_conv(
    a: Attributes,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    out: Tensor = convolve(a, x, weight, bias, residual, a["slope"])
    return out


def activations(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Let a convolution apply the (leaky) ReLU that follows it."""
    graph, gone = Wiring(steps, outputs), set()
    slopes: dict[str, Callable[[Step], float]] = {
        "Relu": lambda s: 0.0,
        "LeakyRelu": lambda s: float(s.attributes.get("alpha", 0.01)),
    }
    for step in steps:
        if step.kind != "Conv" or not _is_picture(step, constants):
            continue
        after = graph.only_reader(step.outputs[0])
        if after is not None and after.kind in slopes:
            step.attributes = step.attributes | {"slope": slopes[after.kind](after)}
            step.kind, step.outputs = "accel.conv", after.outputs
            gone.add(id(after))
    return [step for step in steps if id(step) not in gone]


def depth_to_space(
    steps: Sequence[Step], constants: Constants, outputs: Sequence[str]
) -> list[Step]:
    """Let a convolution give its channels in the order in which they lie beside each other after
    the DepthToSpace that follows: then whole pixels are moved, not single numbers."""
    graph = Wiring(steps, outputs)
    for step in steps:
        after = graph.only_reader(step.outputs[0], "DepthToSpace")
        if step.kind not in ("Conv", "accel.conv") or after is None:
            continue
        names = [name for name in step.inputs[1:] if name]
        fits = _is_picture(step, constants) and len(step.inputs) < 4
        if (
            after.attributes.get("mode", "DCR") != "CRD"
            or not fits
            or len(names) != len([n for n in names if n in constants])
        ):
            continue
        area = int(after.attributes["blocksize"]) ** 2
        for i, name in enumerate(step.inputs[1:], 1):
            if name:
                value = constants[name]
                turned = value.reshape(-1, area, *value.shape[1:]).transpose(0, 1)
                step.inputs[i] = f"{after.outputs[0]}/{i}"
                constants[step.inputs[i]] = turned.reshape(value.shape).contiguous()
        after.attributes = after.attributes | {"mode": "DCR"}
    return list(steps)
