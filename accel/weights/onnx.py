"""ONNX files, run by ONNX Runtime: checked bytes in, batches through, on the device asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as ort_state

from accel.core import ConfigError, InputError, choose_device
from accel.weights import onnx_graph
from accel.weights.assets import is_shipped
from accel.weights.onnx_binding import (
    Binding,
    batch_profiles,
    device_providers,
    device_stream,
)
from accel.weights.onnx_sizes import Sizes

Array = np.ndarray[Any, Any]

SHARE_OF_BATCH = 4  # of what one item may need, for several together
MANY = 1 << 30  # items; without a limit
# Bytes of values at a time, of one item, up to which ONNX Runtime keeps a pool of memory. Its pool
# grows by twice as much each time: for larger values that costs more than the pool saves.
MOST_POOLED = 256 << 20
# ONNX Runtime's exceptions share no base class of their own.
ORT_ERRORS = (
    ort_state.Fail,
    ort_state.InvalidArgument,
    ort_state.InvalidGraph,
    ort_state.InvalidProtobuf,
    ort_state.NotImplemented,
    ort_state.RuntimeException,
)
# What ONNX Runtime calls the types that networks take and give.
DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int16)": np.int16,
    "tensor(int8)": np.int8,
    "tensor(uint64)": np.uint64,
    "tensor(uint32)": np.uint32,
    "tensor(uint16)": np.uint16,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


@dataclass(frozen=True, kw_only=True)
class Port:
    """An input or output: a free size is given by its name, or "" where it has none."""

    name: str
    shape: tuple[int | str, ...]
    dtype: Any

    def __str__(self) -> str:
        sizes = ", ".join(str(s) or "?" for s in self.shape)
        return f"{self.name} [{sizes}] {np.dtype(self.dtype)}"

    def fits(self, shape: Sequence[int], any_count: bool) -> bool:
        """Whether an array of this shape may be given. any_count: whatever its first size is."""
        if not self.shape:  # a lone number, or a file that says no shape: it shows as it runs
            return True
        pairs = list(zip(shape, self.shape))[1 if any_count else 0 :]
        same = all(isinstance(want, str) or got == want for got, want in pairs)
        return same and len(shape) == len(self.shape)


def open_onnx(
    source: Path | str | bytes,
    *,
    device: str = "cpu",
    threads: int = 1,
    dynamic_batch: bool = True,
    fold: bool = True,
    tensorrt: Path | None = None,
) -> Network:
    """Open an ONNX file, or the bytes of one.

    threads: how many cores one call may use on the CPU.
    dynamic_batch: when the file declares a batch of 1, rewrite it to take any. The first real batch
        is compared with a single run; where they differ the network goes on item by item and says
        so (`batched` is False).
    fold: keep weights that are stored as float16 or uint8 as float32 in memory.
    tensorrt: on CUDA, let TensorRT run what it can; a folder in which the engines it builds are
        kept, as building takes minutes.

    Raises InputError when the file cannot be read, is no ONNX model, or is one that reaches
    outside its own bytes; ConfigError when the device cannot be used.
    """
    name = "ONNX model" if isinstance(source, bytes) else str(source)
    if threads < 1:
        raise ConfigError(f"threads must be at least 1, got {threads}")
    data = source if isinstance(source, bytes) else onnx_graph.read_model(Path(source))
    shipped = is_shipped(source)  # what strangers' graphs may do is not looked for in our own
    model = (onnx_graph.parse_shipped if shipped else onnx_graph.parse)(data, name)
    onnx_graph.tidy(model)
    if fold:
        onnx_graph.fold_storage(model)
    fixed = model.SerializeToString()
    where, sizes = _Place(device, tensorrt), _sizes(model)
    made = None if shipped else Sizes(model, name)
    if made is not None:
        at_once = made.at_once
        where.has_pool = at_once is not None and at_once <= MOST_POOLED
    if dynamic_batch and onnx_graph.free_batch(model):
        try:
            session = _session(model.SerializeToString(), where, threads, name, _sizes(model))
            if made is not None:
                made = Sizes(model, name)
            return Network(session, name, made, verified=False, binding=where.binding(session))
        except InputError:  # the rewrite did not fit this graph; one at a time always does
            pass
    session = _session(fixed, where, threads, name, sizes)
    return Network(session, name, made, verified=True, binding=where.binding(session))


def last_initializer(source: Path | str | bytes) -> Array | None:
    """Return the last constant of an ONNX file, None when it has none; raises as `open_onnx`."""
    data = source if isinstance(source, bytes) else onnx_graph.read_model(Path(source))
    model = onnx_graph.parse(data, "ONNX model" if isinstance(source, bytes) else str(source))
    constants = model.graph.initializer
    return numpy_helper.to_array(constants[-1]) if constants else None


class _Place:
    """Where a session runs; on CUDA with a stream of its own."""

    def __init__(self, name: str, tensorrt: Path | None = None) -> None:
        self.name, self.tensorrt, self.device = name, tensorrt, choose_device(name)
        self.has_pool = True  # of memory, on the CPU
        self.stream = device_stream(self.device) if self.device.type == "cuda" else None

    def providers(self, sizes: dict[str, tuple[int | str, ...]]) -> list[Any]:
        if self.stream is None:
            return ["CPUExecutionProvider"]
        if hasattr(onnxruntime, "preload_dlls"):
            onnxruntime.preload_dlls()
        return device_providers(self.device, self.stream, self.tensorrt, batch_profiles(sizes))

    def binding(self, session: onnxruntime.InferenceSession) -> Binding | None:
        return None if self.stream is None else Binding(session, self.device, self.stream)


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int | str, ...]]:
    """Sizes of the inputs; a free one is a word."""
    constants = {t.name for t in model.graph.initializer}
    return {
        i.name: tuple(d.dim_value or d.dim_param or "?" for d in i.type.tensor_type.shape.dim)
        for i in model.graph.input
        if i.name not in constants
    }


def _session(
    data: bytes, where: _Place, threads: int, name: str, sizes: dict[str, tuple[int | str, ...]]
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = where.has_pool
    options.log_severity_level = 4  # what goes wrong as it runs is raised; no need to print it too
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # A waiting thread must not burn the core that the decoder or the encoder could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers = where.providers(sizes)
    try:
        # Without its own fall-back, which prints; with no settings that the model brings along.
        session = onnxruntime.InferenceSession(
            data, options, providers=providers, enable_fallback=0, read_config_from_model=0
        )
    except (*ORT_ERRORS, ValueError, RuntimeError, MemoryError) as error:
        raise InputError(f"{name}: ONNX Runtime refuses it: {first_line(error)}") from None
    # Asked for a provider that does not load, ONNX Runtime logs a line and takes the CPU.
    wanted = {p[0] for p in providers if isinstance(p, tuple)}
    got = session.get_providers()
    if not wanted <= set(got):
        raise ConfigError(
            f"device {where.name} must have ONNX Runtime's {' and '.join(sorted(wanted))} "
            f"(CUDA 13, cuDNN 9), got {got[0]}"
        )
    return session


def first_line(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    line = line.rpartition("Status Message: ")[2]
    return re.sub(r"/onnxruntime\S* \S.*\) ", "", line)[:300]  # a place in its sources


class Network:
    """A network that maps arrays to arrays; the first axis of each counts items.

    inputs, outputs: what goes in and out, in the order of the file.
    metadata: what the file says of itself, words by name.
    providers: what ONNX Runtime runs it on, the first choice first.
    batched: whether several items go through in one run. Items are taken one by one otherwise, so
        the answer is the same.

    Safe to call from several threads.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        name: str,
        made: Sizes | None,  # of what its operators make; None: it needs no check
        *,
        verified: bool,
        binding: Binding | None = None,
    ) -> None:
        self.name = name
        self.binding = binding  # on CUDA; None on the CPU
        try:
            self.inputs = [_port(i, name) for i in session.get_inputs()]
            self.outputs = [_port(o, name) for o in session.get_outputs()]
            self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        except UnicodeDecodeError:
            raise InputError(
                f"{name}: names and metadata must be UTF-8, hold other bytes"
            ) from None
        self.providers: list[str] = session.get_providers()
        # A lone number or a vector of one is a setting, the same for all items.
        self._per_item = {p.name for p in self.inputs if len(p.shape) > 1}
        self.batched = all(
            isinstance(p.shape[0], str) for p in self.inputs if p.name in self._per_item
        )
        self._session = session
        self._made = made
        self._verified = verified

    def __call__(self, *arrays: Array | torch.Tensor, **named: Array | torch.Tensor) -> list[Array]:
        """Run it. Arrays come in the order of `inputs`, or by name; they are cast as needed.

        Raises ValueError when an input is missing, unknown, or of the wrong shape.
        """
        if any(isinstance(a, torch.Tensor) and a.is_cuda for a in (*arrays, *named.values())):
            return _brought(self.on_device(**self._named(arrays, named)))
        feed = self._feed(arrays, named)
        counts = {feed[name].shape[0] for name in self._per_item}
        if len(counts) > 1:
            raise ValueError(f"{self.name}: inputs must hold as many items each, got {counts}")
        count = counts.pop() if counts else 1
        if count == 0:
            one = {n: self._like_one(a) if n in self._per_item else a for n, a in feed.items()}
            return [out[:0] for out in self._run(one)]
        if count == 1:
            return self._run(feed)
        most = self._most_items(feed) if self.batched else 1
        if 1 < most < count:
            parts = [self(**self._items(feed, i, most)) for i in range(0, count, most)]
            return [np.concatenate(part) for part in zip(*parts)]
        if most > 1 and (self._verified or self._verify(feed)):
            return self._run(feed)
        singles = [self._run(self._item(feed, i)) for i in range(count)]
        return [np.concatenate(parts) for parts in zip(*singles)]

    def on_device(self, **named: torch.Tensor) -> list[torch.Tensor]:
        """Run it on tensors of its device and leave the results there; nothing is waited for.

        Items go one by one where a batch was not yet found to give the same (see `batched`); the
        first batch is checked for that, once, on the host. Raises ConfigError for a network that
        was opened on the CPU.
        """
        if self.binding is None:
            raise ConfigError(f"{self.name}: must be opened on a CUDA device to run there")
        if self._made is not None:
            self._made.check_once({name: tensor.shape for name, tensor in named.items()})
        count = max((named[n].shape[0] for n in self._per_item), default=1)
        if count == 1 or (self.batched and (self._verified or self._verify(self._host(named)))):
            return self.binding(named)
        singles = [
            self.binding({n: t[i : i + 1] if n in self._per_item else t for n, t in named.items()})
            for i in range(count)
        ]
        return [torch.cat(parts) for parts in zip(*singles)]

    def _host(self, named: dict[str, torch.Tensor]) -> dict[str, Array]:
        return self._feed((), {name: tensor.cpu() for name, tensor in named.items()})

    def whole(self, **named: Array | torch.Tensor) -> list[Array]:
        """Run it once on exactly these arrays; the first axis is whatever the graph says it is.

        Raises ValueError as a call does, and where the graph cannot take the sizes.
        """
        try:
            return self._try_to_run(self._feed((), named))
        except ORT_ERRORS as error:
            raise ValueError(
                f"{self.name}: inputs must fit the graph: {first_line(error)}"
            ) from None

    def _named(self, arrays: Sequence[Any], named: dict[str, Any]) -> dict[str, Any]:
        given = dict(zip((p.name for p in self.inputs), arrays)) | named
        wanted = {p.name for p in self.inputs}
        if given.keys() != wanted or len(arrays) + len(named) != len(wanted):
            raise ValueError(
                f"{self.name}: inputs must be {', '.join(map(str, self.inputs))}, "
                f"got {len(arrays)} arrays and {sorted(named)}"
            )
        return given

    def _feed(
        self, arrays: Sequence[Array | torch.Tensor], named: dict[str, Array | torch.Tensor]
    ) -> dict[str, Array]:
        given = self._named(arrays, named)
        feed = {}
        for port in self.inputs:
            value = given[port.name]
            array = value.detach().numpy() if isinstance(value, torch.Tensor) else value
            # ascontiguousarray would make a vector of a lone number.
            array = np.asarray(array, dtype=port.dtype, order="C")
            if not port.fits(array.shape, port.name in self._per_item):
                raise ValueError(f"{self.name}: input must be {port}, got {list(array.shape)}")
            feed[port.name] = array
        return feed

    def _run(self, feed: dict[str, Array]) -> list[Array]:
        try:
            return self._try_to_run(feed)
        except (*ORT_ERRORS, MemoryError) as error:  # sizes are known only as it runs
            raise InputError(f"{self.name}: fails as it runs: {first_line(error)}") from None

    def _try_to_run(self, feed: dict[str, Array]) -> list[Array]:
        if self._made is not None:
            self._made.check_once({name: array.shape for name, array in feed.items()})
        results: list[Array] = self._session.run(None, feed)
        return results

    def _item(self, feed: dict[str, Array], index: int) -> dict[str, Array]:
        return self._items(feed, index, 1)

    def _items(self, feed: dict[str, Array], first: int, many: int) -> dict[str, Array]:
        return {n: a[first : first + many] if n in self._per_item else a for n, a in feed.items()}

    def _most_items(self, feed: dict[str, Array]) -> int:
        """How many go through together: what one may need, many may not need many times."""
        if self._made is None or self.binding is not None:
            return MANY
        one = {name: array.shape for name, array in self._item(feed, 0).items()}
        return max(self._made.room({}) // SHARE_OF_BATCH // max(self._made.check_once(one), 1), 1)

    @staticmethod
    def _like_one(array: Array) -> Array:
        return np.zeros((1, *array.shape[1:]), array.dtype)

    def _verify(self, feed: dict[str, Array]) -> bool:
        """Compare a batch with its first and last item alone; on a difference stop batching.

        Returns whether this batch may go through as one. Equal items could not show that a
        rewritten graph mixes them: they go one by one and nothing is decided.
        """
        count = feed[next(iter(self._per_item))].shape[0]
        first, last = self._item(feed, 0), self._item(feed, count - 1)
        if all(np.array_equal(first[name], last[name]) for name in self._per_item):
            return False
        try:
            together = self._try_to_run(feed)
        except (*ORT_ERRORS, InputError):  # a size that the graph fixes elsewhere
            self.batched = False
            return False
        pairs = [(i, self._run(end)) for i, end in ((0, first), (count - 1, last))]
        self.batched = self._verified = all(
            batch.shape[:1] == (count,) and _close(batch[i : i + 1], single)
            for i, end in pairs
            for batch, single in zip(together, end)
        )
        return self.batched


def _brought(results: list[torch.Tensor]) -> list[Array]:
    """Results to the host, in one copy where they are of one type; waits, as arrays must."""
    if len({r.dtype for r in results}) > 1 or len(results) == 1:
        return [r.cpu().numpy() for r in results]
    flat: Array = torch.cat([r.flatten() for r in results]).cpu().numpy()
    ends = np.cumsum([r.numel() for r in results])[:-1]
    return [part.reshape(r.shape) for part, r in zip(np.split(flat, ends), results)]


def _port(described: Any, name: str) -> Port:
    if described.type not in DTYPES:
        raise InputError(f"{name}: {described.name} must be a tensor of numbers: {described.type}")
    shape = tuple(s if isinstance(s, int | str) else "" for s in described.shape)
    return Port(name=described.name, shape=shape, dtype=DTYPES[described.type])


def _close(a: Array, b: Array) -> bool:
    if a.shape != b.shape:
        return False
    if not np.issubdtype(a.dtype, np.floating):
        return bool(np.array_equal(a, b))
    scale = max(1.0, float(np.abs(b[np.isfinite(b)]).max(initial=0)))
    tolerance = (2e-2 if a.dtype == np.float16 else 1e-3) * scale
    return bool(np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True))
