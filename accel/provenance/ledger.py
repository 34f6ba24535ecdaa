"""A local list of what was made: no pictures, no names, each line bound to the one before.

It links an invisible mark back to a credential that a re-save has stripped. Each entry's hash
covers the entry and the hash before it, so that an altered or missing line is seen. Cutting off the
end is not: for that, keep an export's last hash elsewhere.
"""

from __future__ import annotations

import datetime
import errno
import hashlib
import json
import os
import sqlite3
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import chain, islice
from operator import ge
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from accel.core import NEVER_WAIT, ConfigError, InputError, open_file, user_folder

_SCHEMA = (
    """CREATE TABLE entries (
  number INTEGER PRIMARY KEY, time TEXT NOT NULL, task TEXT NOT NULL, sha256 TEXT NOT NULL,
  mark TEXT, consent TEXT NOT NULL, looks TEXT NOT NULL, credential TEXT NOT NULL,
  previous TEXT NOT NULL, hash TEXT NOT NULL
)""",
    "CREATE INDEX by_sha256 ON entries (sha256)",
    "CREATE INDEX by_mark ON entries (mark)",
)
_START = "0" * 64
_LAST = 2**63 - 1  # number of a row that SQLite can hold
_NO_ENTRY = (TypeError, AttributeError, ValueError, KeyError)  # what a row raises that is none
_LONGEST = 1 << 20  # bytes of a row, or of a schema
_PAGE, _PAGE_BYTES = 10_000, 32 << 20  # that are read at a time; who writes waits no longer
MOST_FITTING = 100  # entries that fit one file
MOST_FAULTS = 1000  # that are told of
_WAIT_S, _LOOK_S = 30, 3  # for another process that writes: to append, and to look
SIMILAR = 10  # of 64 bits that two looks of one picture may differ in; strangers differ in 32


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One thing that was made.

    sha256: of the finished file. mark: id of the invisible mark. looks: a few `look`s of it.
    credential: the serial number of the certificate that signed it, "" when nothing did.
    """

    number: int
    time: str  # UTC, ISO 8601
    task: str
    sha256: str
    mark: str | None
    consent: str
    looks: tuple[str, ...]
    credential: str
    previous: str
    hash: str

    def expected_hash(self) -> str:
        told = {key: value for key, value in vars(self).items() if key != "hash"}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def ledger_path() -> Path:
    """$ACCEL_HOME/ledger.sqlite, or in the user's data folder. Nothing is created here."""
    if home := os.environ.get("ACCEL_HOME"):
        return Path(home) / "ledger.sqlite"
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or user_folder() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = user_folder() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or user_folder() / ".local" / "share")
    return base / "accel" / "ledger.sqlite"


class Ledger:
    """The list in one file; several processes may use it at once.

    Reading from a file that does not exist finds nothing and creates nothing.
    Raises InputError when the file is there and is no ledger.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or ledger_path()

    def add(
        self,
        *,
        task: str,
        sha256: str,
        mark: str | None = None,
        consent: str = "undeclared",
        looks: tuple[str, ...] = (),
        credential: str = "",
    ) -> Entry:
        """Append an entry and return it with its number, time and hash."""
        if len(sha256) != 64:
            raise ConfigError(f"sha256 must have 64 digits, got {len(sha256)}")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._open(write=True) as base:
            base.execute("BEGIN IMMEDIATE")  # nobody may append between reading and writing
            number, previous = self._end(base)
            told = {
                "number": number, "time": now, "task": task, "sha256": sha256, "mark": mark,
                "consent": consent, "looks": looks, "credential": credential, "previous": previous,
            }  # fmt: skip
            entry = Entry(**told, hash="")  # type: ignore[arg-type]
            entry = Entry(**told, hash=entry.expected_hash())  # type: ignore[arg-type]
            row = asdict(entry) | {"looks": " ".join(looks)}
            base.execute(f"INSERT INTO entries VALUES ({', '.join(f':{key}' for key in row)})", row)
            base.execute("COMMIT")
        return entry

    def prepare(self) -> None:
        """Make the ledger if there is none; InputError if no entry could be added to it.

        Called before work whose end is an entry.
        """
        with self._open(write=True):
            pass

    def _end(self, base: sqlite3.Connection) -> tuple[int, str]:
        """Number of the entry that comes next, and the hash that it follows."""
        number, previous = base.execute(
            "SELECT number, hash FROM entries ORDER BY number DESC LIMIT 1"
        ).fetchone() or (0, _START)
        if not (0 <= number < _LAST and isinstance(previous, str)):
            raise InputError(
                f"{self.path.name}: the ledger cannot be used: its last row is no entry"
            )
        return number + 1, previous

    def entries(self, limit: int | None = None) -> list[Entry]:
        """All entries, or the last `limit`, the oldest first."""
        return list(self.each(limit))

    def each(self, limit: int | None = None) -> Iterator[Entry]:
        """The same one by one: a list of years does not fit into memory."""
        return map(self._made, self._rows(limit))

    def with_file(self, sha256: str) -> list[Entry]:
        """Entries of a file, the latest MOST_FITTING, the oldest first."""
        return self._fitting("sha256", sha256)

    def with_mark(self, ident: str) -> list[Entry]:
        """Entries of an invisible mark, as `with_file`."""
        return self._fitting("mark", ident)

    def looking_like(self, looks: tuple[str, ...], limit: int = SIMILAR) -> list[Entry]:
        """Entries of which some look differs from one of these in `limit` bits at most."""
        wanted = [int(look, 16) for look in looks]
        if not wanted:
            return []
        similar = (
            entry
            for page in self._pages()
            if _may_hold(page, wanted, limit)
            for entry in map(self._made, page)
            if any(
                (int(look, 16) ^ one).bit_count() <= limit for look in entry.looks for one in wanted
            )
        )
        return list(deque(similar, MOST_FITTING))

    def faults(self) -> list[str]:
        """What is wrong with the chain, one line each; empty when it holds."""
        return self.check().faults

    def check(self) -> Chain:
        """Go over the whole chain."""
        found: list[str] = []
        previous, number, rows = _START, 0, 0
        for row in self._rows():
            if len(found) >= MOST_FAULTS:
                found.append(f"what follows entry {number} was not looked at")
                break
            rows += 1
            try:
                expected = _expected_hash(row)
            except _NO_ENTRY:
                found.append(f"what follows entry {number} was altered and is no entry")
                continue
            if row.number != number + 1:
                found.append(f"entry {number + 1} is missing before entry {row.number}")
            elif row.previous != previous:
                found.append(f"entry {row.number} does not follow the one before it")
            if row.hash != expected:
                found.append(f"entry {row.number} was altered")
            previous, number = row.hash, row.number
        return Chain(found, rows, previous)

    def export(self, limit: int | None = None) -> str:
        """All entries, or the last `limit`, as JSON, one a line."""
        return "".join(as_json(entry) + "\n" for entry in self.each(limit))

    def _fitting(self, column: str, value: str) -> list[Entry]:
        latest = f"WHERE {column} = ? ORDER BY number DESC LIMIT ?"
        rows = self._read(latest, (value, MOST_FITTING))
        return [self._made(row) for row in rows[::-1]]

    def _made(self, row: _Row) -> Entry:
        try:
            return _entry(row)
        except _NO_ENTRY as error:
            raise InputError(
                f"{self.path.name}: must be a ledger, holds what is no entry of one"
            ) from error

    def _rows(self, limit: int | None = None) -> Iterator[_Row]:
        """All rows in order, or the last `limit`."""
        return chain.from_iterable(self._pages(limit))

    def _pages(self, limit: int | None = None) -> Iterator[list[_Row]]:
        """The same page by page; between two of them others may write."""
        begin = -_LAST - 1
        if limit is not None:
            newest = "ORDER BY rowid DESC LIMIT 1 OFFSET ?"
            for first in self._read(newest, (min(limit, _LAST) - 1,)):
                begin = first.at
        while begin <= _LAST and (page := self._read("WHERE rowid >= ? ORDER BY rowid", (begin,))):
            places = [begin - 1, *(row.at for row in page)]
            if any(map(ge, places, places[1:])):  # else pages would come again and again
                raise InputError(
                    f"{self.path.name}: the ledger cannot be used: its rows are out of order"
                )
            begin = places[-1] + 1
            yield page

    def _read(self, where: str, values: tuple[Any, ...]) -> list[_Row]:
        """A page of rows."""
        if not self.path.exists():
            return []
        self._check_files()
        with self._open(write=False) as base:
            if not _has_entries(base):
                raise InputError(
                    f"{self.path.name}: the ledger cannot be used: it has no table of entries"
                )
            found = base.execute(f"SELECT {_COLUMNS} FROM entries {where}", values)
            page, size = [], 0
            for row in map(_Row._make, islice(found, _PAGE)):
                page.append(row)
                size += row.size()
                if size > _PAGE_BYTES:
                    break
            return page

    @contextmanager
    def _open(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        mode = "rw" if write else "ro"
        if write:
            self._make_room()
        try:
            with closing(
                sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?mode={mode}",
                    uri=True, timeout=_WAIT_S if write else _LOOK_S, isolation_level=None,
                )
            ) as base:  # fmt: skip
                base.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
                if write:
                    self._make_tables(base)
                yield base
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise InputError(f"{self.path.name}: the ledger cannot be used: {error}") from error

    def _make_tables(self, base: sqlite3.Connection) -> None:
        """Make what is not there; refuse what would compute, or hang, as a row is added."""
        with base:  # another process may be making them too
            base.execute("BEGIN IMMEDIATE")
            found = base.execute(
                "SELECT sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
            ).fetchall()
            if strange := [sql for (sql,) in found if sql not in _SCHEMA]:
                raise InputError(
                    f"{self.path.name}: the ledger cannot be used: it must hold what the engine"
                    f" made alone, has {str(strange[0])[:60]!r} too"
                )
            for one in _SCHEMA:
                if (one,) not in found:
                    base.execute(one)

    def _make_room(self) -> None:
        """Make an empty file for its owner alone where there is none; the folder too."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.path, NEVER_WAIT | os.O_RDWR | os.O_CREAT, 0o600))
            if not os.access(self.path.parent, os.W_OK):  # a journal is written beside it
                raise PermissionError(errno.EACCES, "its folder cannot be written to")
        except OSError as error:
            raise InputError(
                f"{self.path.name}: the ledger cannot be used: {error.strerror or error}"
            ) from error
        self._check_files()

    def _check_files(self) -> None:
        """Refuse what SQLite would wait for, and a ledger whose reading would make files."""
        with open_file(self.path, "a ledger") as file:
            if file.read(20)[18:] == b"\2\2":
                raise InputError(f"{self.path.name}: must be a ledger in one file, has another")
        for end in ("-journal", "-wal", "-shm"):
            beside = self.path.with_name(self.path.name + end)
            if beside.is_symlink() or (beside.exists() and not beside.is_file()):
                raise InputError(f"{beside.name}: must be a file of a ledger, is a link or a pipe")


class Chain(NamedTuple):
    """What was found of a ledger's chain: faults, number of its rows, and the last hash."""

    faults: list[str]
    rows: int
    last: str


def as_json(entry: Entry) -> str:
    """An entry as JSON."""
    return json.dumps(vars(entry), sort_keys=True)


def _has_entries(base: sqlite3.Connection) -> bool:
    """Whether there is a plain table of entries: views, and tables of modules, which may look into
    views, have rows without end, and columns may be worked out as they are read."""
    found = base.execute("SELECT type, sql FROM sqlite_master WHERE name = 'entries'").fetchone()
    if found is None or found[0] != "table" or not str(found[1]).upper().startswith("CREATE TABLE"):
        return False
    columns = base.execute("PRAGMA table_xinfo(entries)").fetchall()
    return {one[1]: one[-1] for one in columns} == {one.name: 0 for one in fields(Entry)}


class _Row(NamedTuple):
    """A row as it lies in the file, which may be a stranger's: of any kinds of value.

    at: the place that it has in the table.
    """

    at: int
    number: int
    mark: str | None
    time: str
    task: str
    sha256: str
    consent: str
    credential: str
    previous: str
    hash: str
    looks: str

    def size(self) -> int:
        """Characters and bytes in it."""
        try:
            return len(self.mark or "") + sum(map(len, self[3:]))
        except TypeError:  # of which the engine made none
            return sum(len(value) for value in self if isinstance(value, str | bytes))


_COLUMNS = ", ".join(("rowid", *_Row._fields[1:]))
_KINDS = {(int, int, mark, *[str] * 8) for mark in (str, type(None))}


def _entry(row: _Row) -> Entry:
    """A row as an entry; raises one of _NO_ENTRY when it is none."""
    if tuple(map(type, row)) not in _KINDS:
        raise TypeError("the kinds of its values")
    looks = tuple(row.looks.split())
    for one in looks:
        int(one, 16)
    return Entry(
        number=row.number, time=row.time, task=row.task, sha256=row.sha256, mark=row.mark,
        consent=row.consent, looks=looks, credential=row.credential, previous=row.previous,
        hash=row.hash,
    )  # fmt: skip


def _expected_hash(row: _Row) -> str:
    """What `_entry(row).expected_hash()` is, in a third of the time for what the engine makes.

    Raises one of _NO_ENTRY when the row is none.
    """
    if tuple(map(type, row)) not in _KINDS:
        raise TypeError("the kinds of its values")
    looks = row.looks.split()
    mark = "null" if row.mark is None else f'"{row.mark}"'
    told = (
        f'{{"consent": "{row.consent}", "credential": "{row.credential}", "looks": ['
        + ", ".join([f'"{one}"' for one in looks])
        + f'], "mark": {mark}, "number": {row.number}, "previous": "{row.previous}", "sha256":'
        f' "{row.sha256}", "task": "{row.task}", "time": "{row.time}"}}'
    )
    quotes = 2 * (15 + (row.mark is not None) + len(looks))  # nine names, six texts
    if not told.isascii() or not told.isprintable() or "\\" in told or told.count('"') != quotes:
        return _entry(row).expected_hash()  # JSON writes some letter of it in another way
    try:
        bytes.fromhex(row.looks)
    except ValueError:
        return _entry(row).expected_hash()
    return hashlib.sha256(told.encode()).hexdigest()


def _may_hold(page: list[_Row], wanted: list[int], limit: int) -> bool:
    """Whether some look in a page may be near enough; at a hundredth of the time of a search."""
    try:
        told = " ".join([row.looks for row in page if row.looks]).encode("ascii")
        values = np.frombuffer(bytes.fromhex(told.decode()), ">u8")
    except (TypeError, ValueError):
        return True  # not as the engine writes them
    ends = np.frombuffer(told, np.uint8)[16::17]
    if len(told) + 1 != 17 * len(values) or not (ends == ord(" ")).all():
        return True
    near = (np.bitwise_count(values ^ np.uint64(one)).min(initial=64) <= limit for one in wanted)
    return any(near)


def look(luma: NDArray[Any]) -> str:  # [H, W] -> 16 hexadecimal digits
    """Sum up how a picture looks in 64 bits that survive resizing and compression.

    The signs of its 8 by 8 lowest frequencies about their median; nothing can be seen in them.
    """
    small = luma
    while min(small.shape) >= 128:  # exact halves are what OpenCV is fast at
        height, width = small.shape[0] // 2, small.shape[1] // 2
        small = cv2.resize(
            small[: 2 * height, : 2 * width], (width, height), interpolation=cv2.INTER_AREA
        )
    small = cv2.resize(small, (32, 32), interpolation=cv2.INTER_AREA)
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return np.packbits(bits).tobytes().hex()
