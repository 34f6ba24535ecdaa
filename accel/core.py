"""What every package may lean on: errors, device choice, progress and cancellation.

Nothing here knows of kernels, video, faces or models.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import torch

# Opening a pipe would wait for its other end.
NEVER_WAIT = os.O_RDONLY | sum(
    getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_BINARY", "O_CLOEXEC")
)

# /proc, /sys, debugfs, tracefs, securityfs, configfs and both kinds of cgroups (linux/magic.h).
MADE_UP = (0x9FA0, 0x62656572, 0x64626720, 0x74726163, 0x73636673, 0x62656570, 0x27E0EB, 0x63677270)
FSTATFS = ctypes.CDLL(None).fstatfs if sys.platform == "linux" else None

MAX_JSON_ITEMS = 4_000_000  # each may become an object of a hundred bytes


class ConfigError(ValueError):
    """A setting or an input that cannot be used; its text is one line, fit to be shown as it is.

    File names and metadata in it come from strangers: what could move a terminal's cursor, turn
    the direction of writing or begin another line is shown as an escape instead.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class InputError(ConfigError):
    """A file that is missing, damaged, hostile or of the wrong kind."""


def one_line(text: str, longest: int = 1000) -> str:
    """`text` as one line of printable characters, cut in the middle when it is too long."""
    text = " ".join(_cut(text, longest).split())
    if text.isprintable():
        return text
    # An escape takes up to ten letters.
    return _cut("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), longest)


def _cut(text: str, longest: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[: longest * 2 // 3]} ... {text[-longest // 4 :]}"


def open_file(path: Path, what: str = "a file") -> BinaryIO:
    """Open a regular file to read its bytes; `what` says what it should be.

    Raises InputError for anything else, pipes and devices among it: they might never end, as might
    what the kernel makes up (/proc/kmsg waits for the next message).
    """
    try:
        handle = os.open(path, NEVER_WAIT)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a zero byte in the name
        raise InputError(f"{path}: must be the name of a file") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"{path}: must be {what}, is a folder, pipe or device")
    if _file_system(handle) in MADE_UP:
        os.close(handle)
        raise InputError(f"{path}: must be {what}, is made up by the kernel")
    return os.fdopen(handle, "rb")


def _file_system(handle: int) -> int:
    """The kind of file system that an open file lies on, as Linux numbers them; 0 elsewhere."""
    about = (ctypes.c_long * 32)()  # struct statfs, whose first member is the kind
    return int(about[0]) if FSTATFS and FSTATFS(handle, about) == 0 else 0


def user_folder() -> Path:
    """The user's folder; ConfigError where the system knows of none."""
    try:
        return Path.home()
    except RuntimeError:
        raise ConfigError("this user has no folder: set ACCEL_HOME to one") from None


def files_below(folder: Path) -> list[Path]:
    """Every regular file below a folder in order, and every link to one, however deep they lie.

    Folders that are links, or that cannot be read, are passed over.
    """
    found, todo = [], [folder]
    while todo:
        with suppress(OSError), os.scandir(todo.pop()) as inside:
            for one in inside:
                if one.is_dir(follow_symlinks=False):
                    todo.append(Path(one.path))
                elif os.path.isfile(one.path):
                    found.append(Path(one.path))
    return sorted(found)


def read_file(path: Path, most_bytes: int, what: str = "a file") -> bytes:
    """The content of a regular file of at most `most_bytes`; raises InputError as `open_file`."""
    with open_file(path, what) as file:
        try:
            is_larger = os.fstat(file.fileno()).st_size > most_bytes
            data = b"" if is_larger else file.read(most_bytes + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    if is_larger or len(data) > most_bytes:  # it may grow meanwhile
        raise InputError(f"{path}: must be {what} of {most_bytes} bytes at most, is larger")
    return data


def write_text(path: Path, text: str) -> None:
    """Write a small file where a user asked for it; OSError for a pipe that nobody reads from."""
    with open_text(path) as file:
        file.write(text)


def open_text(path: Path) -> TextIO:
    """Open a file that a user asked for, to write it; OSError for a pipe that nobody reads from."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0)
    handle = os.open(path, flags, 0o666)
    if hasattr(os, "set_blocking"):
        os.set_blocking(handle, True)
    return os.fdopen(handle, "w", encoding="utf-8")


def read_json(path: Path, what: str = "JSON", most_bytes: int = 64 << 20) -> Any:
    """What a JSON file of a regular size says; raises InputError, one line, for any other file."""
    return parse_json(read_file(path, most_bytes, what), str(path), what)


def json_items(text: bytes) -> int:
    """How many objects JSON text may become, at most: its commas, colons and brackets."""
    return sum(text.count(mark) for mark in (b",", b":", b"[", b"{"))


def parse_json(text: str | bytes, who: str, what: str = "JSON") -> Any:
    """What JSON text of a stranger says; raises InputError, naming `who`, for any other text."""
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    if json_items(data) > MAX_JSON_ITEMS:
        raise InputError(f"{who}: must be {what} of {MAX_JSON_ITEMS} items at most, has more")
    try:
        return json.loads(text)
    except RecursionError:
        raise InputError(f"{who}: must be {what}, is nested too deep") from None
    except ValueError as error:  # also text that is no UTF-8, and numbers of thousands of digits
        raise InputError(f"{who}: must be {what}, is damaged: {error}") from None


class Refused(RuntimeError):
    """The content gate said no; carries the reason."""


class Cancelled(RuntimeError):
    """The caller asked for the work to stop."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a progress callback is told, once a frame or a step.

    stage: what is being done, one or two words ("swap", "sample").
    done, total: units finished and expected; total is None when it cannot be known.
    rate: units per second over the last seconds.
    """

    stage: str
    done: int
    total: int | None = None
    rate: float = 0.0


ProgressCallback = Callable[[Progress], None]


@dataclass
class Cancel:
    """A flag that the caller sets and the work looks at between frames or steps."""

    _event: threading.Event = field(default_factory=threading.Event)

    def set(self) -> None:
        self._event.set()

    @property
    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Raise Cancelled once `set` was called."""
        if self._event.is_set():
            raise Cancelled("cancelled")


# glibc's malloc.h. Beyond these sizes memory goes back to the system as soon as it is free, and
# every page of it is cleared and mapped anew for who asks next.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
TRIM_BYTES, MMAP_BYTES, PLAIN_BYTES = 1 << 30, 32 << 20, 128 << 10


@dataclass
class _Keepers:
    """Jobs that run side by side, in one process, and keep memory."""

    count: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


_KEEPERS = _Keepers()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for what is allocated next, while inside: pictures come and go.

    Where the C library is not glibc, memory is left to it.
    """
    with _KEEPERS.lock:
        _KEEPERS.count += 1
        kept = _keep_memory(TRIM_BYTES, MMAP_BYTES)
    try:
        yield
    finally:
        with _KEEPERS.lock:
            _KEEPERS.count -= 1
            if kept and not _KEEPERS.count:
                _keep_memory(PLAIN_BYTES, PLAIN_BYTES)


def _keep_memory(trim: int, mmap: int) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl and others have none
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, mmap)) and bool(mallopt(M_TRIM_THRESHOLD, trim))


@contextmanager
def light_collector() -> Iterator[None]:
    """Keep the garbage collector from walking all that was loaded before, again and again.

    Work that makes many small objects (a few hundred a frame) sets off full collections, each of
    which visits every object of torch and of open networks. Those are set aside meanwhile; what is
    made inside is collected as always. Does nothing where the caller has frozen objects already.
    """
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str = "auto") -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is really there.

    Raises ConfigError when CUDA is asked for by name and cannot be used: a silent fall-back to
    the CPU would be found out only by its slowness.
    """
    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and not index.isdecimal()) or (index and kind != "cuda"):
        raise ConfigError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "auto":
        return torch.device("cuda" if count else "cpu")
    if int(index or 0) >= count:
        raise ConfigError(f"device {name} must exist, but this machine has {count} CUDA devices")
    return torch.device(name)
