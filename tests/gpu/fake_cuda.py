"""A CUDA device that is not there: it counts copies, launches and waits, and computes on the CPU.

Inside `fake_cuda()` torch believes in one CUDA device. A tensor "on" it is a wrapper around a CPU
tensor, so that a pipeline takes its GPU path, with real values, on any machine. What that path
would have cost is counted: bytes copied either way, kernels launched (ours and torch's), and every
place where the host would have waited for the device.

An operator of ours runs its Triton implementation for its control flow: allocations, copies and
launches are recorded, and a tensor that a kernel could not read is refused as Triton would. The
values come from the CPU implementation; with `exact=True` Triton's interpreter computes them.

What this cannot see: streams that are not ordered, races, launches within a library call (a
convolution counts as one), or time.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

from accel.kernels._op import OPS, Op

CUDA = torch.device("cuda", 0)
THERE = ("cuda", "meta")  # `x.to("cuda")` asks the device guard, which is that of meta: `_no_guard`
aten = torch.ops.aten
# One library call each, though torch could break them up.
WHOLE = {aten.linear.default, aten.scaled_dot_product_attention.default, aten.matmul.default}
FREE = {  # no work on the device
    aten.empty.memory_format, aten.empty_strided.default, aten.empty_like.default,
    aten.new_empty.default, aten.new_empty_strided.default, aten.detach.default,
    aten.lift_fresh.default, aten._unsafe_view.default, aten._reshape_alias.default,
    aten.sym_size.int, aten.sym_stride.int,
}  # fmt: skip
# The host cannot go on before it knows how large the result is, or what it is.
WAITING = {
    "_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2",
    "unique_consecutive", "unique_dim", "repeat_interleave", "bincount",
}  # fmt: skip


@dataclass(frozen=True)
class Copy:
    """direction: "up" to the device, "down" to the host. where: file:line of ours that asked."""

    direction: str
    nbytes: int
    where: str


@dataclass
class Counts:
    """What a run would have cost; `since` gives the difference to an earlier `snapshot`."""

    copies: list[Copy] = field(default_factory=list)
    launches: Counter[str] = field(default_factory=Counter)
    waits: list[str] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)  # runs of networks that ONNX Runtime holds

    @property
    def launched(self) -> int:
        return self.launches.total()

    def moved(self, direction: str, at_least: int = 0) -> list[Copy]:
        return [c for c in self.copies if c.direction == direction and c.nbytes >= at_least]

    def snapshot(self) -> Counts:
        return Counts(
            list(self.copies), self.launches.copy(), list(self.waits), list(self.networks)
        )

    def since(self, earlier: Counts) -> Counts:
        return Counts(
            self.copies[len(earlier.copies) :],
            self.launches - earlier.launches,
            self.waits[len(earlier.waits) :],
            self.networks[len(earlier.networks) :],
        )


class FakeTensor(torch.Tensor):
    """A tensor that says it is on cuda:0; `host` is the CPU tensor with its values."""

    host: torch.Tensor
    device_of: Device

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device_of: Device) -> FakeTensor:
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=CUDA, requires_grad=inner.requires_grad,
        )  # fmt: skip

    def __init__(self, inner: torch.Tensor, device_of: Device) -> None:
        self.host, self.device_of = inner, device_of

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        fakes: list[FakeTensor] = []
        tree_map(lambda a: fakes.append(a) if isinstance(a, FakeTensor) else None, (args, kwargs))
        return fakes[0].device_of.run(func, args, kwargs or {})

    def tolist(self) -> Any:  # torch's own refuses subclasses
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def data_ptr(self) -> int:  # as allocators give it: 512 bytes, plus where the view begins
        return 512 + self.storage_offset() * self.element_size()

    def record_stream(self, stream: Any) -> None:
        """Only delays when memory is used again."""

    def __repr__(self) -> str:
        return f"FakeTensor({tuple(self.shape)}, {self.dtype}, device=cuda:0)"


class _Mode(TorchDispatchMode):
    def __init__(self, device: Device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.device.run(func, args, kwargs or {})


class Device:
    """The counting device. `counts` may be read at any time, from any thread."""

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self.counts = Counts()
        self._lock = threading.Lock()
        self._capturing: FakeGraph | None = None

    def wrap(self, inner: torch.Tensor) -> FakeTensor:
        """A tensor that lies on the device already, as a decoder's surface does."""
        return FakeTensor(inner, self)

    def wait(self, what: str) -> None:
        if self._capturing is not None:
            raise RuntimeError(f"{what} at {_caller()}: not permitted while a stream is captured")
        with self._lock:
            self.counts.waits.append(f"{what} at {_caller()}")

    def copied(self, direction: str, nbytes: int) -> None:
        with self._lock:
            self.counts.copies.append(Copy(direction, nbytes, _caller()))

    def launched(self, name: str) -> None:
        graph = self._capturing
        with self._lock:
            (self.counts.launches if graph is None else graph.launches)[name] += 1

    def ran(self, network: str) -> None:
        with self._lock:
            self.counts.networks.append(network)

    # ------------------------------------------------------------ torch's operators

    def run(self, func: Any, args: tuple, kwargs: dict) -> Any:
        leaves: list[torch.Tensor] = []
        tree_map(
            lambda a: leaves.append(a) if isinstance(a, torch.Tensor) else None, (args, kwargs)
        )
        there = any(isinstance(a, FakeTensor) for a in leaves)
        wanted = kwargs.get("device")
        kinds = THERE if func._opname == "_to_copy" else ("cuda",)
        to_device = wanted is not None and torch.device(wanted).type in kinds
        if not there and not to_device:
            return func(*args, **kwargs)
        if func.namespace == "accel":
            return self._operator(OPS[func._opname], args, "!" in str(func._schema))
        name = func._opname
        if name == "_to_copy":
            return self._to_copy(args[0], kwargs)
        if name == "copy_":
            return self._copy_(*args, **kwargs)
        if func not in WHOLE and torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), torch._C.DispatchKey.CompositeImplicitAutograd
        ):
            with self.here():
                return func.decompose(*args, **kwargs)
        self._check_one_device(func, leaves)
        self._count(func, name, args)
        plain = tree_map(_host, kwargs)
        if to_device:
            plain["device"] = torch.device("cpu")
        if plain.get("pin_memory"):
            plain["pin_memory"] = False
        host_args = tree_map(_host, args)
        result = self._do(func, lambda: func(*host_args, **plain), _written(func, args, kwargs))
        keep_cpu = wanted is not None and not to_device
        if name in ("_local_scalar_dense", "item", "equal", "is_nonzero") or keep_cpu:
            return result
        # A view is made in its base's mode, or torch cannot join their version counters.
        with torch.inference_mode(
            args[0].is_inference() if func.is_view else torch.is_inference_mode_enabled()
        ):
            wrapped = tree_map(lambda r: self.wrap(r) if isinstance(r, torch.Tensor) else r, result)
        if not there:
            return wrapped
        return return_and_correct_aliasing(func, args, kwargs, wrapped)

    def _count(self, func: Any, name: str, args: tuple) -> None:
        indexed = name in ("index", "index_put_") and any(
            isinstance(i, torch.Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in WAITING or (indexed and name == "index"):
            self.wait(name)
            if name in ("_local_scalar_dense", "item"):
                self.copied("down", args[0].element_size())
                return
        if func in FREE or func.is_view:
            return
        self.launched(name)

    def _check_one_device(self, func: Any, leaves: list[torch.Tensor]) -> None:
        for leaf in leaves:
            if not isinstance(leaf, FakeTensor) and leaf.ndim and leaf.device.type == "cpu":
                if func._opname in ("index", "index_put_"):  # torch copies CPU indices itself
                    self.copied("up", leaf.nbytes)
                    self.wait("index on the CPU")
                    continue
                raise RuntimeError(
                    f"{func}: expected all tensors to be on the same device, but found at least "
                    "two devices, cuda:0 and cpu"
                )

    def _to_copy(self, x: torch.Tensor, kwargs: dict) -> torch.Tensor:
        target = torch.device(kwargs.get("device") or x.device)
        plain = {k: v for k, v in kwargs.items() if k not in ("device", "non_blocking")}
        host = _host(x)
        result = self._do(
            aten._to_copy.default, lambda: aten._to_copy.default(host, **plain).clone()
        )
        up, down = target.type in THERE, isinstance(x, FakeTensor)
        if up and down:
            self.launched("_to_copy")
        elif up or down:
            self._moved("up" if up else "down", x, not kwargs.get("non_blocking"))
        return self.wrap(result) if up else result

    def _copy_(self, to: torch.Tensor, x: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        target, source = _host(to), _host(x)
        self._do(aten.copy_.default, lambda: target.copy_(source), [target])
        up, down = isinstance(to, FakeTensor), isinstance(x, FakeTensor)
        if up and down:
            self.launched("copy_")
        elif x.ndim or down:
            # A copy into memory that is not pinned returns only when it is done.
            self._moved("up" if up else "down", x, down or not non_blocking)
        return to

    def _moved(self, direction: str, x: torch.Tensor, waits: bool) -> None:
        self.copied(direction, x.nbytes)
        if waits:
            self.wait(f"copy {direction}")

    # ------------------------------------------------------------ our operators

    def _operator(self, op: Op, args: tuple, writes: bool) -> Any:
        chosen = next(i for i in op.implementations if not i.why_not(*args))
        op.used.add(chosen.name)
        with self.here():
            result = chosen.run(*args)
        if chosen.name != "triton" or self.exact:
            return result
        host_args, results = tree_map(_host, args), [_host(r) for r in _tensors(result)]

        def compute() -> None:
            value = op.run(*host_args)
            for given, computed in zip(results, [] if writes else _tensors(value)):
                given.copy_(computed)

        self._do(
            op, compute, [a for a in host_args if isinstance(a, torch.Tensor)] if writes else []
        )
        return result

    def _do(self, what: Any, work: Callable, written: Sequence[torch.Tensor] = ()) -> Any:
        """Do some work on the host; while a graph is captured, let the graph have it too."""
        if self._capturing is None:
            return work()
        return self._capturing.record(work, written)

    def launch(self, kernel: Any, original: Callable, grid: Any, args: tuple, kwargs: dict) -> None:
        for i, arg in enumerate((*args, *kwargs.values())):
            if isinstance(arg, torch.Tensor) and not isinstance(arg, FakeTensor):
                raise ValueError(
                    f"{_name(kernel)}: Pointer argument (at {i}) cannot be accessed from Triton "
                    "(cpu tensor?)"
                )
        self.launched(f"triton:{_name(kernel)}")
        if self.exact:
            inner = {k: _host(v) for k, v in kwargs.items()}
            original(kernel, *map(_host, args), grid=grid, **inner)

    # ------------------------------------------------------------ switching it on

    @contextmanager
    def here(self) -> Iterator[None]:
        """Make this thread's new tensors go to the device when they ask for it."""
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        try:
            with _Mode(self):
                yield
        finally:
            torch._C._set_only_lift_cpu_tensors(before)


class FakeGraph:
    """torch.cuda.CUDAGraph: holds what was done while it was captured, and does it again.

    A real capture records and does nothing. Here the work is done once, to have tensors of the
    right shapes, and what it wrote into is put back afterwards.
    """

    def __init__(self, device_of: Device) -> None:
        self._device = device_of
        self.launches: Counter[str] = Counter()
        self._work: list[tuple[Callable, list[torch.Tensor]]] = []
        self._before: list[tuple[torch.Tensor, torch.Tensor]] = []

    def record(self, work: Callable, written: Sequence[torch.Tensor]) -> Any:
        self._before += [(t, t.clone()) for t in written]
        result = work()
        alias = {t.untyped_storage().data_ptr() for t in written}
        made = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in alias]
        self._work.append((work, made))
        return result

    @contextmanager
    def capture(self) -> Iterator[None]:
        self._device._capturing = self
        try:
            yield
        finally:
            self._device._capturing = None
            for tensor, before in reversed(self._before):
                tensor.copy_(before)
            self._before.clear()

    def replay(self) -> None:
        self._device.launched("graph")
        for work, made in self._work:
            for tensor, again in zip(made, _tensors(work())):
                tensor.copy_(again)


class _Event:
    """Enough of torch.cuda.Event; to wait for one that lies a step back keeps the pace."""

    def __init__(self, device_of: Device) -> None:
        self._device = device_of

    def record(self, stream: Any = None) -> None:
        """Marks a place on the device; the host goes on."""

    def synchronize(self) -> None:
        self._device.wait("Event.synchronize")


class _Stream:
    """Enough of torch.cuda.Stream for code that orders work."""

    cuda_stream = 0x5EED
    device = CUDA

    def __init__(self, device_of: Device) -> None:
        self._device = device_of

    def synchronize(self) -> None:
        self._device.wait("Stream.synchronize")

    def wait_stream(self, other: Any) -> None:
        """Orders the device; the host goes on."""

    wait_event = record_event = wait_stream


@contextmanager
def fake_cuda(exact: bool = False) -> Iterator[Device]:
    """Let torch and Triton believe in one CUDA device until the block ends; give its counters."""
    if torch.cuda.is_available():
        raise RuntimeError("fake_cuda: a real CUDA device is here")
    device = Device(exact)
    stream = _Stream(device)
    run_thread = threading.Thread.run

    def run_with_device(thread: threading.Thread) -> None:
        with device.here():  # modes belong to one thread
            run_thread(thread)

    properties = mock.Mock(total_memory=24 << 30, multi_processor_count=128, major=8, minor=9)
    cuda = {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *a: "a counting device",
        "get_device_properties": lambda *a: properties,
        "get_device_capability": lambda *a: (8, 9),
        "current_stream": lambda *a: stream,
        "default_stream": lambda *a: stream,
        "CUDAGraph": lambda: FakeGraph(device),
        "graph": lambda graph: graph.capture(),
        "stream": lambda stream: nullcontext(),
        "Event": lambda *a, **k: _Event(device),
        "Stream": lambda *a, **k: _Stream(device),
        "synchronize": lambda *a: device.wait("torch.cuda.synchronize"),
        "empty_cache": lambda: None,
    }
    future = torch.__future__
    overwrites = future.get_overwrite_module_params_on_conversion()
    with _no_guard(), mock.patch.multiple(torch.cuda, **cuda), _launcher(device):
        # A parameter cannot become another kind of tensor in place.
        future.set_overwrite_module_params_on_conversion(True)
        with mock.patch.object(threading.Thread, "run", run_with_device), device.here():
            try:
                yield device
            finally:
                future.set_overwrite_module_params_on_conversion(overwrites)


@contextmanager
def _no_guard() -> Iterator[None]:
    """Give CUDA the device guard of `meta`, which does nothing: a build without CUDA has none."""
    c10 = ctypes.CDLL(f"{torch.__path__[0]}/lib/libc10.so")
    guards = (ctypes.c_void_p * 22).in_dll(c10, "_ZN3c104impl26device_guard_impl_registryE")
    cuda, meta = 1, 14  # c10::DeviceType
    before = guards[cuda]
    guards[cuda] = guards[meta]
    try:
        yield
    finally:
        guards[cuda] = before


@contextmanager
def _launcher(device: Device) -> Iterator[None]:
    """Record `kernel[grid](...)` instead of compiling for a device that is not there."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def recording(original: Callable) -> Callable:
        def run(kernel: Any, *args: Any, grid: Any = None, warmup: bool = False, **kwargs: Any):
            given = [*args, *kwargs.values()]
            if not any(isinstance(a, FakeTensor) for a in given):
                return original(kernel, *args, grid=grid, warmup=warmup, **kwargs)
            return device.launch(kernel, original, grid, args, {**kwargs, "warmup": warmup})

        return run

    with (
        mock.patch.object(JITFunction, "run", recording(JITFunction.run)),
        mock.patch.object(InterpretedFunction, "run", recording(InterpretedFunction.run)),
    ):
        yield


def _written(func: Any, args: tuple, kwargs: dict) -> list[torch.Tensor]:
    """Host tensors that an operator of torch writes into."""
    schema, found = func._schema.arguments, []
    for place, argument in enumerate(schema):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            found += [_host(t) for t in ([value] if torch.is_tensor(value) else value or [])]
    return found


def _host(value: Any) -> Any:
    if isinstance(value, FakeTensor):
        return value.host
    if isinstance(value, list | tuple):
        return type(value)(_host(v) for v in value)
    return value


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _name(kernel: Any) -> str:
    return str(getattr(kernel.fn, "__name__", kernel.fn))


def _caller() -> str:
    """File and line in `accel` that led here, without what every operator passes through."""
    frame = sys._getframe(1)
    while frame:
        path = frame.f_code.co_filename
        if "/accel/" in path and not path.endswith("/_op.py"):
            return f"{path.rpartition('/accel/')[2]}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside accel"
