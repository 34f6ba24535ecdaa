"""Files that grow under a passing name, and what processes that were killed left of them.

Whoever writes such a file holds a lock on it, which the system lets go of when the process ends,
however it ends. A file that nobody holds any longer will never be finished.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows: leftovers stay there
    fcntl = None  # type: ignore[assignment]

YOUNG_S = 2.0  # a file this new may not be locked yet
TOKEN = "[0-9a-f]{8}"


def passing_name(path: Path, token: str) -> Path:
    """The name under which `path` grows, in its folder."""
    return path.parent / f".{path.stem[:64]}.{token}.partial{path.suffix}"


class Unfinished:
    """An empty file beside `path`, ours until `close`. path: its name, drawn by lot.

    What earlier runs for the same `path` left unfinished is removed: regular files of this user
    that have such a name and that no process holds.
    """

    def __init__(self, path: Path) -> None:
        for left in leftovers(path):
            with contextlib.suppress(OSError):
                left.unlink()
        self.path = passing_name(path, secrets.token_hex(4))
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        _lock(self._handle)

    def close(self) -> None:
        """Let go of it; the file stays as it is."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)


def leftovers(path: Path) -> list[Path]:
    """Files that killed processes left half written beside `path`: nobody will finish them."""
    if fcntl is None:
        return []
    begin, _, end = passing_name(path, "\0").name.partition("\0")
    ours = re.compile(re.escape(begin) + TOKEN + re.escape(end))
    names: list[str] = []
    with contextlib.suppress(OSError):  # a folder may be written to and not be read
        names = os.listdir(path.parent)
    return [path.with_name(name) for name in sorted(names)
            if ours.fullmatch(name) and _is_nobodys(path.with_name(name))]  # fmt: skip


def _is_nobodys(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # gone meanwhile, a link, a folder
        return False
    try:
        found = os.fstat(handle)
        is_old = time.time() - found.st_mtime > YOUNG_S
        is_own = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
        return is_own and is_old and _lock(handle)
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Whether the file is held by us from now on, until `handle` is closed."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held by another, or a file system without locks
        return False
    return True
