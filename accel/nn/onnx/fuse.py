"""Rewrites of a graph's steps that leave its meaning: fewer passes over memory for the same sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import Tensor

from accel.kernels import group_norm_silu
from accel.nn.onnx.convolve import convolve
from accel.nn.onnx.ops import Attributes, op
from accel.nn.onnx.plan import Step, readers

Constants = dict[str, Tensor]


def fuse(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Apply every rewrite, in the order that lets each see what the one before it made."""
    read = readers(steps, outputs)
    done = [step for step in steps if step.kind != "Dropout" or _does_something(step, read)]
    renamed = {s.outputs[0]: s.inputs[0] for s in steps if s not in done}
    for step in done:
        step.inputs = [_follow(renamed, name) for name in step.inputs]
    for rewrite in (batch_norms, instance_norms, scaled_norms, residuals, activations):
        done = rewrite(done, constants, outputs)
    return done


def _does_something(dropout: Step, read: Counter[str]) -> bool:
    return len(dropout.inputs) > 2 or any(read[name] for name in dropout.outputs[1:] if name)


def _follow(renamed: dict[str, str], name: str) -> str:
    while name in renamed:
        name = renamed[name]
    return name


class _Graph:
    """Who makes and who reads each value."""

    def __init__(self, steps: Sequence[Step], outputs: Sequence[str]):
        self.count = readers(steps, outputs)
        self.made = {name: step for step in steps for name in step.outputs}
        self.read: dict[str, list[Step]] = {}
        for step in steps:
            for name in step.inputs:
                self.read.setdefault(name, []).append(step)

    def only_reader(self, name: str, kind: str = "") -> Step | None:
        """The one step that reads a value, of a kind if one is asked for."""
        found = self.read.get(name, [])
        if self.count[name] != 1 or len(found) != 1 or (kind and found[0].kind != kind):
            return None
        return found[0]


def _other(step: Step, name: str) -> str:
    return step.inputs[1] if step.inputs[0] == name else step.inputs[0]


def batch_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Fold a batch norm that follows a convolution into the convolution's weights."""
    graph, gone = _Graph(steps, outputs), set()
    for step in steps:
        norm = graph.only_reader(step.outputs[0], "BatchNormalization")
        if step.kind != "Conv" or norm is None or len(norm.outputs) > 1:
            continue
        names = [*step.inputs[1:], *norm.inputs[1:]]
        if any(name and name not in constants for name in names):
            continue
        scale, shift, mean, variance = (constants[name].double() for name in norm.inputs[1:5])
        factor = scale / (variance + norm.attributes.get("epsilon", 1e-5)).sqrt()
        weight = constants[step.inputs[1]]
        has_bias = len(step.inputs) > 2 and step.inputs[2]
        bias = constants[step.inputs[2]].double() if has_bias else 0.0
        made = f"{norm.outputs[0]}/folded"
        constants[made + "/weight"] = (
            weight.double() * factor.view(-1, *[1] * (weight.ndim - 1))
        ).to(weight.dtype)
        constants[made + "/bias"] = (shift + (bias - mean) * factor).to(weight.dtype)
        step.inputs = [step.inputs[0], made + "/weight", made + "/bias"]
        step.outputs = norm.outputs
        gone.add(id(norm))
    return [step for step in steps if id(step) not in gone]


@op("accel.instance_norm")
def instance_norm(
    a: Attributes, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None
) -> Tensor:
    """Normalise each channel of each image; then, where given, times scale plus shift."""
    channels = x.shape[1]

    def affine(value: Tensor | None, rest: float) -> Tensor | None:
        if value is None:
            return x.new_full((channels,), rest)
        return value.reshape(-1) if value.numel() == channels else None

    weight, bias = affine(scale, 1.0), affine(shift, 0.0)
    if weight is not None and bias is not None:
        return group_norm_silu(x, channels, weight, bias, a["epsilon"], False)
    ones, zeros = x.new_ones(channels), x.new_zeros(channels)
    y = group_norm_silu(x, channels, ones, zeros, a["epsilon"], False)
    y = y if scale is None else y * scale
    return y if shift is None else y + shift


def instance_norms(
    steps: Sequence[Step], constants: Constants, outputs: Sequence[str]
) -> list[Step]:
    """Find instance norms that were written out: x less its mean, over the root of its variance."""
    graph, result = _Graph(steps, outputs), list(steps)
    for step in steps:
        found = _written_out(step, graph, constants)
        if found is None:
            continue
        parts, epsilon = found
        last = parts[-1]
        fused = Step("accel.instance_norm", {"epsilon": epsilon}, [step.inputs[0]], last.outputs)
        result[next(i for i, s in enumerate(result) if s is last)] = fused
        gone = {id(part) for part in parts}
        result = [s for s in result if id(s) not in gone]
    return result


def _written_out(
    mean: Step, graph: _Graph, constants: Constants
) -> tuple[list[Step], float] | None:
    """From the first ReduceMean: all the steps of the norm, and its epsilon."""
    if not _over_pixels(mean, constants):
        return None
    x = mean.inputs[0]
    less = graph.only_reader(mean.outputs[0], "Sub")
    if less is None or less.inputs != [x, mean.outputs[0]]:
        return None
    centred = less.outputs[0]
    squares = [s for s in graph.read.get(centred, []) if _is_square(s, centred, constants)]
    if not squares:
        return None
    square = squares[0]
    again = graph.only_reader(square.outputs[0], "ReduceMean")
    if again is None or not _over_pixels(again, constants):
        return None
    plus = graph.only_reader(again.outputs[0], "Add")
    root = graph.only_reader(plus.outputs[0], "Sqrt") if plus else None
    if plus is None or root is None:
        return None
    epsilon = constants.get(_other(plus, again.outputs[0]))
    if epsilon is None or epsilon.numel() != 1:
        return None
    parts = [mean, less, square, again, plus, root]
    rate = root.outputs[0]
    turned = graph.only_reader(rate)
    if turned and _is_reciprocal(turned, rate, constants):
        parts.append(turned)
        rate = turned.outputs[0]
        last = graph.only_reader(rate, "Mul")
        fits = last is not None and set(last.inputs) == {centred, rate}
    else:
        last = graph.only_reader(rate, "Div")
        fits = last is not None and last.inputs == [centred, rate]
    reads_of_centred = sum(s.inputs.count(centred) for s in [square, last] if s is not None)
    if last is None or not fits or graph.count[centred] != reads_of_centred:
        return None
    return [*parts, last], float(epsilon)


def _over_pixels(step: Step, constants: Constants) -> bool:
    if step.kind != "ReduceMean" or not step.attributes.get("keepdims", 1):
        return False
    axes = step.attributes.get("axes")
    if len(step.inputs) > 1 and step.inputs[1] in constants:
        axes = constants[step.inputs[1]].tolist()
    return axes is not None and sorted(axes) in ([2, 3], [-2, -1])


def _is_square(step: Step, name: str, constants: Constants) -> bool:
    if step.kind == "Mul":
        return step.inputs == [name, name]
    power = constants.get(step.inputs[1]) if step.kind == "Pow" else None
    return power is not None and power.numel() == 1 and float(power) == 2


def _is_reciprocal(step: Step, name: str, constants: Constants) -> bool:
    if step.kind == "Reciprocal":
        return True
    one = constants.get(step.inputs[0]) if step.kind == "Div" else None
    return one is not None and one.numel() == 1 and float(one) == 1 and step.inputs[1] == name


def scaled_norms(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Take the scale and the shift that follow an instance norm into it (AdaIN)."""
    graph, result = _Graph(steps, outputs), list(steps)
    for step in [s for s in steps if s.kind == "accel.instance_norm"]:
        for kind in ("Mul", "Add"):
            follower = graph.only_reader(step.outputs[0], kind)
            if follower is None or (kind == "Add" and len(step.inputs) == 1):
                break
            step.inputs = [*step.inputs, _other(follower, step.outputs[0])]
            step.outputs = follower.outputs
            # It reads what the follower read, so it must stand where the follower stood.
            result.remove(step)
            result[next(i for i, s in enumerate(result) if s is follower)] = step
    return result


def residuals(steps: Sequence[Step], constants: Constants, outputs: Sequence[str]) -> list[Step]:
    """Let a convolution add the tensor that is added to its result right after."""
    graph, result = _Graph(steps, outputs), list(steps)
    for step in steps:
        added = graph.only_reader(step.outputs[0], "Add") if step.kind == "Conv" else None
        if added is None or not _is_picture(step, constants) or len(step.inputs) > 3:
            continue
        other = _other(added, step.outputs[0])
        if other in constants or other == step.outputs[0]:
            continue
        maker = graph.made.get(other)
        if maker is None or not _same_shape(step, maker, graph, constants):
            continue
        step.inputs = [*step.inputs, *[""] * (3 - len(step.inputs)), other]
        step.outputs = added.outputs
        graph.made[step.outputs[0]] = step
        result.remove(step)
        result[next(i for i, s in enumerate(result) if s is added)] = step
    return result


def _is_picture(step: Step, constants: Constants) -> bool:
    weight = constants.get(step.inputs[1])
    return weight is not None and weight.ndim == 4 and step.attributes.get("group", 1) == 1


def _same_shape(step: Step, maker: Step, graph: _Graph, constants: Constants) -> bool:
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
    graph, gone = _Graph(steps, outputs), set()
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
