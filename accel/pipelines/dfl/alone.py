"""One run at a time where files are renamed, removed or replaced by each other.

The lock is the system's, on the folder itself or on a hidden file in it, and ends with the process
that holds it, however that ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: there nobody looks
    fcntl = None  # type: ignore[assignment]

from accel.core import ConfigError

LOCK = ".lock"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Be the only run that changes the files of a folder.

    Raises ConfigError, at once, where another run is at work there.
    """
    if fcntl is None or not folder.is_dir():
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not _held(handle):
            raise ConfigError(f"{folder}: another run is at work there; wait until it has ended")
        yield
    finally:
        os.close(handle)


@contextmanager
def alone_with(folder: Path, stem: str) -> Iterator[None]:
    """Be the only run that trains a model. Its files may be read meanwhile.

    Raises ConfigError, at once, where another run trains it.
    """
    if fcntl is None:
        yield
        return
    is_new = not folder.exists()
    path = folder / f".{stem}{LOCK}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _held_file(path)
    except OSError:  # a folder that cannot be written: whoever saves there says so
        yield
        return
    if handle is None:
        raise ConfigError(
            f"{folder}: model {stem} is trained by another run; end that one, or give this one"
            " another --name"
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
        if is_new:
            with suppress(OSError):  # what is saved in it stays
                folder.rmdir()


def _held_file(path: Path) -> int | None:
    """A handle that holds the lock; None where another does."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        if not _held(handle):
            os.close(handle)
            return None
        # Who had it before may have removed it between the two calls: then a third made another.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        os.close(handle)


def _held(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True
