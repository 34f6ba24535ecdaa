"""`load_onnx`: an ONNX file on our own kernels where they take it, on ONNX Runtime where not."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from accel.core import ConfigError, InputError, choose_device
from accel.nn.onnx.load import plan_of, samples
from accel.nn.onnx.native import Runner
from accel.nn.onnx.ops import MISFITS, TYPES, Unsupported, first_line
from accel.weights import onnx_graph
from accel.weights.onnx import Network, Port, open_onnx
from accel.weights.onnx_sizes import Sizes

Array = NDArray[Any]
RUNTIMES = ("auto", "accel", "onnxruntime")


def load_onnx(
    source: Path | str | bytes | bytearray | memoryview,
    device: str = "cpu",
    runtime: str = "auto",
    threads: int = 0,
    *,
    tensorrt: Path | None = None,
) -> OnnxModel:
    """Open an ONNX file, or the bytes of one.

    device: `auto`, `cpu`, `cuda` or `cuda:N`.
    runtime: `accel` runs the graph on our kernels (CPU); `onnxruntime` on ONNX Runtime; `auto`
        takes ours on the CPU where the graph becomes one native program with at most a tenth of the
        work left to operators of torch; ONNX Runtime elsewhere.
    threads: for ONNX Runtime on the CPU; 0: as many as torch uses.
    tensorrt: on CUDA, a folder for TensorRT's engines; TensorRT then runs what it can.

    A model from a file can be pickled, for processes that multiprocessing starts: they open the
    same file again.

    Raises InputError for a file that is no ONNX model or reaches outside its own bytes, ConfigError
    where the runtime or the device cannot be had.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, got {runtime!r}")
    model = _opened(source, str(device), runtime, threads, tensorrt)  # torch's devices too
    if not isinstance(source, bytes | bytearray | memoryview):
        model.source = Path(source).absolute(), str(device), runtime, threads, tensorrt
    return model


def _reopened(
    source: Path, device: str, runtime: str, threads: int, tensorrt: Path | None
) -> OnnxModel:
    return load_onnx(source, device, runtime, threads, tensorrt=tensorrt)


def _opened(
    source: Path | str | bytes | bytearray | memoryview,
    device: str,
    runtime: str,
    threads: int,
    tensorrt: Path | None,
) -> OnnxModel:
    in_memory = isinstance(source, bytes | bytearray | memoryview)
    name = "ONNX model" if in_memory else str(source)
    data = bytes(source) if in_memory else onnx_graph.read_model(Path(source))  # type: ignore[arg-type]
    on_cpu = choose_device(device).type == "cpu"
    if runtime == "accel" and not on_cpu:
        raise ConfigError(f"runtime accel runs on the CPU, got device {device}")
    if runtime != "onnxruntime" and on_cpu:
        try:
            model = onnx_graph.parse(data, name)
            onnx_graph.tidy(model)
            onnx_graph.fold_storage(model)
            ports, sizes = _ports(model), Sizes(model, name)
            runner = Runner(plan_of(model), sizes.room)
            if runtime == "accel" or runner.pays(_fitting(samples(model), sizes)):
                return OnnxModel(name, ports, plan=runner, sizes=sizes, types=_types(model))
        except Unsupported as error:
            if runtime == "accel":
                raise ConfigError(f"{name}: runtime accel cannot run it: {error}") from None
    network = open_onnx(
        data, device=device, threads=threads or torch.get_num_threads(), dynamic_batch=False,
        tensorrt=tensorrt,
    )  # fmt: skip
    return OnnxModel(name, network.inputs, network=network)


class OnnxModel:
    """A network from an ONNX file; `runtime` says what runs it. Safe to call from many threads.

    ports: what goes in: names, sizes and types. inputs, outputs: the names alone.
    """

    def __init__(
        self,
        name: str,
        ports: Sequence[Port],
        *,
        plan: Runner | None = None,
        sizes: Sizes | None = None,  # of what the plan makes
        network: Network | None = None,
        types: Mapping[str, Any] | None = None,  # of the plan's outputs
    ):
        self.name, self.ports = name, list(ports)
        self.runtime = "accel" if plan else "onnxruntime"
        self.inputs = [port.name for port in ports]
        self.outputs = (
            plan.outputs if plan else [p.name for p in network.outputs] if network else []
        )
        self._plan, self._sizes, self._network = plan, sizes, network
        self._types = dict(types or {})
        self._lock = threading.Lock()
        # The file and what it was opened with; None where it came as bytes.
        self.source: tuple[Path, str, str, int, Path | None] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is None:
            raise TypeError(
                f"{self.name}: only a model opened from a file can be pickled; send the bytes, and"
                " open them where they arrive"
            )
        return _reopened, self.source

    def on_device(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Map CUDA tensors to CUDA tensors, bound in place; the host waits for nothing.

        Sizes of outputs must follow from those of inputs. Raises ConfigError for a network that was
        not opened on CUDA.
        """
        if self._network is None or self._network.binding is None:
            raise ConfigError(f"{self.name}: must be opened on a CUDA device to run there")
        return dict(zip(self.outputs, self._network.binding(feeds)))

    def run(self, feeds: Mapping[str, Array | Tensor]) -> dict[str, Array]:
        """Map arrays by input name to arrays by output name.

        Arrays become of the declared type where that loses no more than digits. On our kernels a
        batch may have another size than the file says.

        Raises ValueError when an input is missing, unknown, or does not fit the graph; ConfigError
        where `runtime="accel"` was asked for and lacks what the graph needs.
        """
        if not isinstance(feeds, Mapping) or set(feeds) != set(self.inputs):
            got = ", ".join(sorted(map(str, feeds))) if isinstance(feeds, Mapping) else type(feeds)
            raise ValueError(
                f"{self.name}: inputs must be {', '.join(self.inputs)}, got {got or 'none'}"
            )
        given = {port.name: self._array(port, feeds[port.name]) for port in self.ports}
        if self._network is not None:
            return dict(zip(self.outputs, self._network.whole(**given)))
        assert self._plan is not None
        assert self._sizes is not None
        self._sizes.check_once({name: array.shape for name, array in given.items()})
        tensors = {name: _tensor(array) for name, array in given.items()}
        try:
            with self._lock:
                outputs = self._plan.run(tensors)
        except Unsupported as error:
            raise ConfigError(f"{self.name}: runtime accel cannot run it: {error}") from None
        except MISFITS as error:
            raise ValueError(
                f"{self.name}: inputs must fit the graph: {first_line(error)}"
            ) from None
        arrays = (tensor.numpy() for tensor in outputs)
        return {
            name: array.astype(self._types.get(name, array.dtype), copy=False)
            for name, array in zip(self.outputs, arrays)
        }

    def _array(self, port: Port, value: Any) -> Array:
        """What was given for an input, of its type and in order; ValueError where it does not fit.

        Other numbers are refused where whole ones are wanted: their digits would be lost silently.
        """
        if isinstance(value, Tensor):
            value = value.detach().cpu()  # waits
            value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        array = np.asarray(value)
        if not np.can_cast(array.dtype, port.dtype, "same_kind"):
            raise ValueError(f"{self.name}: input must be {port}, got {array.dtype}")
        if not port.fits(array.shape, any_count=self._plan is not None and array.ndim > 1):
            raise ValueError(f"{self.name}: input must be {port}, got {list(array.shape)}")
        return np.asarray(array, port.dtype, order="C")


def _tensor(array: Array) -> Tensor:
    """Numbers as the plan computes with them."""
    if array.dtype == np.float16:
        return torch.from_numpy(array.astype(np.float32))
    return torch.from_numpy(array if array.flags.writeable else array.copy())  # else torch warns


def _fitting(feeds: dict[str, Tensor] | None, sizes: Sizes) -> dict[str, Tensor] | None:
    """Inputs to try a plan with, unless the graph makes too much of them."""
    try:
        sizes.check({name: tensor.shape for name, tensor in (feeds or {}).items()})
    except InputError:
        return None
    return feeds


def _ports(model: ModelProto) -> list[Port]:
    """What goes in; raises Unsupported for what is no tensor of a type that plans know."""
    if model.graph.sparse_initializer:
        raise Unsupported("sparse constants")
    found = []
    for value in model.graph.input:
        kind, dims = value.type.tensor_type.elem_type, value.type.tensor_type.shape.dim
        if kind not in TYPES:
            raise Unsupported(f"input {value.name} of type {kind}")
        dtype = TensorProto.FLOAT if kind == TensorProto.BFLOAT16 else kind
        shape = tuple(d.dim_value if d.dim_value > 0 else d.dim_param for d in dims)
        found.append(
            Port(name=value.name, shape=shape, dtype=helper.tensor_dtype_to_np_dtype(dtype))
        )
    return found


def _types(model: ModelProto) -> dict[str, Any]:
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    return {
        name: helper.tensor_dtype_to_np_dtype(kind)
        for name, kind in kinds.items()
        if kind in TYPES and kind != TensorProto.BFLOAT16
    }
