"""What is done to an ONNX graph before anything runs it: refuse, fold, free the batch dimension.

Sources: the ONNX protobuf definition (onnx/onnx.proto) and operator documents (Cast,
DequantizeLinear, Reshape, Resize).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message  # type: ignore[import-untyped]
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    numpy_helper,
)

from accel.core import InputError, open_file, read_file
from accel.weights.onnx_sizes import (
    MAX_ELEMENTS,
    MAX_ELEMENTS_OF_FOLDERS,
    Sizes,
    check_made,
    value_shapes,
)
from accel.weights.onnx_wire import check_growth, count_fields

Array = np.ndarray[Any, Any]

MAX_FILE_BYTES = (1 << 31) - 1  # protobuf's own limit; a larger model must keep its data outside
LONG_FILE = 64 << 20
MAX_TENSOR_ELEMENTS = 1 << 30
DOMAINS = ("", "ai.onnx", "com.microsoft")
# Operators of the allowed domains that read a file which the model names.
READS_FILES = ("EPContext",)


def read_model(path: Path) -> bytes:
    """The bytes of an ONNX file; of a long one only once its parts add up. Raises InputError."""
    with open_file(path, "an ONNX model") as file:
        if LONG_FILE < os.fstat(file.fileno()).st_size <= MAX_FILE_BYTES:
            with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
                _count(data, str(path))
    return read_file(path, MAX_FILE_BYTES, "an ONNX model")


def _count(data: bytes | mmap, name: str) -> None:
    try:
        count_fields(data, name)
    except DecodeError:
        looks = _looks_like(data[:512])
        raise InputError(f"{name}: must be an ONNX model, got {looks}") from None


def parse(data: bytes, name: str, beside: Path | None = None) -> ModelProto:
    """Read a model and refuse what could reach outside its own bytes.

    beside: a folder whose own files may hold tensors, as those of a model above 2 GB must.
    Raises InputError, its text naming the file, when `data` is no ONNX model, is cut short, keeps
    tensors in other files, or uses operators that are neither standard nor ONNX Runtime's own.
    """
    if not data:
        raise InputError(f"{name}: an ONNX model must have content, got an empty file")
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{name}: an ONNX model must be below 2 GiB, got {len(data)} bytes")
    _count(data, name)
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError:
        raise InputError(f"{name}: must be an ONNX model, got {_looks_like(data)}") from None
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise InputError(f"{name}: must be an ONNX model, got {_looks_like(data)}")
    own = {(f.domain, f.name) for f in model.functions}
    for message in _messages(model):
        if isinstance(message, TensorProto):
            _check_tensor(message, name, beside)
        elif isinstance(message, SparseTensorProto):
            check_made(math.prod(message.dims), message.values.name, name)
        elif isinstance(message, NodeProto):
            key = (message.domain, message.op_type)
            if message.domain not in DOMAINS and key not in own:
                raise InputError(
                    f"{name}: operators must be of the domains ai.onnx or com.microsoft, got "
                    f"{message.op_type!r:.60} of {message.domain!r:.60}"
                )
            if message.op_type in READS_FILES:
                raise InputError(
                    f"{name}: {message.op_type!r:.60} reads another file and is refused"
                )
    check_growth(model, name)
    Sizes(model, name, MAX_ELEMENTS_OF_FOLDERS if beside else MAX_ELEMENTS).check()
    return model


def parse_shipped(data: bytes, name: str) -> ModelProto:
    """Read a model that lies in the package, where nothing is to be refused."""
    try:
        return onnx.load_model_from_string(data)
    except DecodeError:
        raise InputError(f"{name}: must be an ONNX model, got {_looks_like(data)}") from None


def _looks_like(data: bytes) -> str:
    head = data[:512]
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer: fetch the real file"
    if head.lstrip()[:1] == b"<":
        return "a web page or XML"
    if all(byte in b"\t\n\r\f\b" or byte >= 32 for byte in head):
        return "text"
    return "a damaged or truncated file, or another format"


def _messages(message: Message) -> Iterator[Message]:
    """Every message inside, itself included; tensors are not entered, their data may be large."""
    yield message
    if isinstance(message, TensorProto):
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if isinstance(value, Message) else value:
            yield from _messages(item)


def _lies_beside(tensor: TensorProto, folder: Path | None) -> bool:
    """Whether a tensor that is kept in another file is kept in one of this very folder."""
    told = {entry.key: entry.value for entry in tensor.external_data}
    place = told.get("location", "")
    if folder is None or len(told) < len(tensor.external_data) or place != Path(place).name:
        return False
    return (folder / place).is_file() and not (folder / place).is_symlink()


def _check_tensor(tensor: TensorProto, name: str, beside: Path | None) -> None:
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        if _lies_beside(tensor, beside):
            return
        raise InputError(
            f"{name}: all data must lie in the file itself, got tensor {tensor.name!r:.80} "
            "kept in another file"
        )
    if any(d < 0 for d in tensor.dims) or math.prod(tensor.dims) > MAX_TENSOR_ELEMENTS:
        raise InputError(
            f"{name}: a tensor must have 0 to 2^30 elements, got {tensor.name!r:.80} "
            f"of shape {list(tensor.dims)}"
        )
    # A number takes a byte or more, but for 2-bit and 4-bit types.
    if math.prod(tensor.dims) > 4 * max(tensor.ByteSize(), 1):
        raise InputError(
            f"{name}: tensor {tensor.name!r:.80} must hold {math.prod(tensor.dims)} numbers, "
            f"got {tensor.ByteSize()} bytes"
        )


def tidy(model: ModelProto) -> None:
    """Drop initialisers from the inputs: listed there they are defaults, which nothing may fold.

    Parts of a Split that nobody wants get names: without one ONNX Runtime's Split ends the process.
    """
    graph = model.graph
    for count, node in enumerate(_nodes(graph)):
        for i, part in enumerate(node.output if node.op_type == "Split" else ()):
            if not part:
                node.output[i] = f"accel_unread_{count}_{i}"
    constants = {i.name for i in graph.initializer}
    kept = [i for i in graph.input if i.name not in constants]
    del graph.input[:]
    graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)  # from 4 on an initialiser need not be an input


def fold_storage(model: ModelProto) -> int:
    """Turn weights stored as float16 + Cast or uint8 + DequantizeLinear into float32; say how many.

    ONNX Runtime leaves the latter in the graph and pays for it in every call. A graph that also
    quantises its activations is left alone: there the pair selects integer kernels.
    """
    graph = model.graph
    if any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in graph.node):
        return 0
    constants = {i.name: i for i in graph.initializer}
    is_folded = []
    for node in graph.node:
        value = _folded(node, constants)
        is_folded.append(value is not None)
        if value is None:
            continue
        tensor = graph.initializer.add()  # in place: copies of weights take longer than folding
        tensor.name, tensor.data_type = node.output[0], TensorProto.FLOAT
        tensor.dims.extend(value.shape)
        tensor.raw_data = value.astype("<f4", copy=False).tobytes()
        constants[node.output[0]] = tensor
    _keep(graph.node, [not one for one in is_folded])
    _drop_unused(graph)
    return sum(is_folded)


def _folded(node: NodeProto, constants: dict[str, TensorProto]) -> Array | None:
    if not node.input or any(name and name not in constants for name in node.input):
        return None
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Cast" and "to" in attributes and attributes["to"].i == TensorProto.FLOAT:
        if constants[node.input[0]].data_type != TensorProto.FLOAT16:
            return None
        stored: Array = numpy_helper.to_array(constants[node.input[0]])
        return stored.astype(np.float32)
    if node.op_type != "DequantizeLinear" or attributes.keys() - {"axis"}:
        return None
    values, scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input if name)
    if values.dtype not in (np.uint8, np.int8, np.int32) or scale.dtype != np.float32:
        return None
    # Differences of bytes are exact in float32; of larger numbers they are first taken as they are.
    kind = np.int64 if values.dtype == np.int32 else np.float32
    centred = values.astype(kind)
    shape = [1] * values.ndim
    if scale.size > 1:
        shape[attributes["axis"].i if "axis" in attributes else 1] = scale.size
    if zero:
        centred -= zero[0].astype(kind).reshape(shape if zero[0].size > 1 else ())
    weights: Array = centred.astype(np.float32, copy=False)
    weights *= scale.reshape(shape if scale.size > 1 else ())
    return weights


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in _nodes(graph) for name in node.input}
    used |= {o.name for o in graph.output}
    _keep(graph.initializer, [i.name in used for i in graph.initializer])


def _keep(items: Any, wanted: list[bool]) -> None:
    """Leave those of a message's items that are wanted, in order: none is copied or compared."""
    asked = iter(wanted)
    items.sort(key=lambda item: not next(asked))
    del items[sum(wanted) :]


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
            for inner in attribute.graphs:
                yield from _nodes(inner)


def free_batch(model: ModelProto) -> bool:
    """Let the first dimension of inputs that declare 1 be any number; say whether one did.

    Constant targets of Reshape and sizes of Resize that repeat the 1 are rewritten. That is a good
    guess, no proof: the caller compares a batch with single runs before it trusts the result.
    """
    graph = model.graph
    batched = [i for i in graph.input if _first_dimension(i) == 1]
    if not batched:
        return False
    shapes = value_shapes(model)
    constants = {i.name: i for i in graph.initializer}
    constants |= {
        n.output[0]: n.attribute[0].t
        for n in graph.node
        if n.op_type == "Constant" and n.output and n.attribute
    }
    fixes = {"Reshape": (1, _reshape_target), "Resize": (3, _resize_scales)}
    for index, node in enumerate(graph.node):
        where, fix = fixes.get(node.op_type, (0, None))
        if fix is None or len(node.input) <= where or node.input[where] not in constants:
            continue
        if node.input[0] in constants:  # a parameter being shaped, not the batch
            continue
        old = numpy_helper.to_array(constants[node.input[where]])
        new = fix(old, shapes.get(node.input[0]))
        if new is None:
            continue
        name = f"accel_batch_{index}"
        graph.initializer.append(numpy_helper.from_array(new, name))
        if node.op_type == "Resize":
            node.input[2], _ = name, node.input.pop()
        else:
            node.input[where] = name
    for value in [*batched, *(o for o in graph.output if _first_dimension(o) == 1)]:
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del graph.value_info[:]
    return True


def _first_dimension(value: onnx.ValueInfoProto) -> int | None:
    """The fixed first size; None when free, or when the value is but one number."""
    shape = value.type.tensor_type.shape
    return shape.dim[0].dim_value if len(shape.dim) > 1 else None


def _reshape_target(target: Array, data: list[int] | None) -> Array | None:
    if target.size == 0 or target[0] != 1:
        return None
    if -1 not in target:
        first = -1
    elif data and data[0] == 1:
        first = 0  # the size that the data has there
    else:
        return None
    return np.array([first, *target[1:]], np.int64)


def _resize_scales(sizes: Array, data: list[int] | None) -> Array | None:
    if sizes.size == 0 or sizes[0] != 1 or not data or 0 in data or len(data) != sizes.size:
        return None
    scales = (sizes / np.array(data)).astype(np.float32)
    # Sizes come back as floor(size · scale); a ratio that does not survive stays as it is.
    exact = np.array_equal(np.floor(np.array(data, np.float32) * scales), sizes)
    return scales if exact and data[0] == 1 else None
