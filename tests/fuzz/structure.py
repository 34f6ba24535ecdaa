"""Mutations that know a format: one part changes, lengths, sums and tables around it follow.

Without them most mutated files end at the first checksum or length. Each takes the bytes, what
changes a part, and a generator; bytes that are not of the format come back as they are.
"""

from __future__ import annotations

import io
import json
import pickletools
import random
import sqlite3
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

Change = Callable[[bytes], bytes]
Structure = Callable[[bytes, Change, random.Random], bytes]

ODD = (None, True, -1, 0, 0.5, 1e400, 2**31, 2**63, 2**64, "", "\x1b[2J", "x" * 300, "F32", "BF16",
       "\ud800", [], {}, [[]], [0, 2**62], ["a", 1], {"a": 1})  # fmt: skip
OPERATIONS = b"0123(]})u.tlsbRcoigeajqhrN\x81\x85\x86\x87\x89\x88\x93\x94\x8f\x90"  # of pickles


def tree(value: Any, rng: random.Random) -> Any:
    """A JSON value with one place of it put otherwise: replaced, removed, doubled or swapped."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        keys, made = list(value), dict(value)
        key = rng.choice(keys)
        how = rng.random()
        if how < 0.6:
            made[key] = tree(value[key], rng)
        elif how < 0.7:
            del made[key]
        elif how < 0.85:
            made[str(rng.choice(ODD)) if rng.random() < 0.5 else rng.choice(keys)] = value[key]
        else:
            made[key] = value[rng.choice(keys)]
        return made
    if isinstance(value, list) and value and rng.random() < 0.8:
        at, made = rng.randrange(len(value)), list(value)
        how = rng.random()
        if how < 0.6:
            made[at] = tree(value[at], rng)
        elif how < 0.75:
            del made[at]
        else:
            made[at:at] = value * rng.choice((1, 1, 20))
        return made
    if isinstance(value, int | float) and rng.random() < 0.6:
        return value + rng.choice((-1, 1, 8, -8, value))
    return rng.choice(ODD)


def words(data: bytes, change: Change, rng: random.Random) -> bytes:
    """JSON with one place of it put otherwise."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return json.dumps(tree(value, rng)).encode()


def safetensors(data: bytes, change: Change, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if length > len(data):
        return data
    how = rng.random()
    if how < 0.7:
        with suppress(ValueError, RecursionError):
            header = json.dumps(tree(json.loads(header), rng)).encode()
    elif how < 0.9:
        header = change(header)
    else:
        rest = change(rest)
    return len(header).to_bytes(8, "little") + header + rest


def archive(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A zip with a member changed, written again; pickles inside by their opcodes."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
            members = [(one.filename, old.read(one)) for one in old.infolist()[:50]]
            chosen = rng.randrange(len(members))
            if rng.random() < 0.6:  # the program rather than the numbers
                chosen = next((i for i, m in enumerate(members) if m[0].endswith(".pkl")), chosen)
            for index, (name, content) in enumerate(members):
                if index == chosen:
                    pick = rng.random()
                    if name.endswith(".pkl") and pick < 0.6:
                        content = pickle(content, change, rng)
                    elif pick < 0.9:
                        content = change(content)
                    else:
                        name = change(name.encode()).decode("utf-8", "replace") or "x"
                new.writestr(name.lstrip("/\0") or "x", content)
    except (ValueError, OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError,
            OverflowError, zlib.error, struct.error):  # fmt: skip
        return data
    return made.getvalue()


def pickle(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A program with operations left out, doubled, exchanged or given another argument."""
    try:
        at = [place for _, _, place in pickletools.genops(data)]
    except (ValueError, IndexError, UnicodeDecodeError, struct.error, OverflowError):
        return data
    pieces = [data[a:b] for a, b in zip(at, [*at[1:], len(data)])]
    pieces = [one for one in pieces if not one.startswith(b"\x95")]  # frames: lengths of the rest
    for _ in range(rng.choice((1, 1, 2, 4))):
        one, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        how = rng.random()
        if how < 0.25:
            pieces[one] = pieces[other]
        elif how < 0.45:
            pieces.insert(one, pieces[other] * rng.choice((1, 1, 30)))
        elif how < 0.6:
            del pieces[one]
        elif how < 0.8:
            pieces[one] = pieces[one][:1] + change(pieces[one][1:])
        else:
            pieces.insert(one, bytes([rng.choice(OPERATIONS)]))
        if not pieces:
            return data
    return b"".join(pieces)


def png(data: bytes, change: Change, rng: random.Random) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data) and data.startswith(b"\x89PNG"):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 12 + length
    if not chunks:
        return data
    one = rng.randrange(len(chunks))
    kind, content = chunks[one]
    how = rng.random()
    if how < 0.7:
        if kind in (b"IDAT", b"zTXt", b"iCCP") and rng.random() < 0.5:  # what is compressed
            with suppress(zlib.error):
                content = zlib.compress(change(zlib.decompress(content)))
        else:
            content = change(content)
        chunks[one] = (kind, content)
    elif how < 0.8:
        chunks.insert(one, chunks[rng.randrange(len(chunks))])
    elif how < 0.9:
        kinds = (b"acTL", b"fcTL", b"fdAT", b"tRNS", b"PLTE", b"eXIf", b"iTXt", b"cICP", b"caBX")
        chunks.insert(one, (rng.choice(kinds), change(content[:64])))
    else:
        del chunks[one]
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content
        + struct.pack(">I", zlib.crc32(kind + content)) for kind, content in chunks
    )  # fmt: skip


def jpeg(data: bytes, change: Change, rng: random.Random) -> bytes:
    segments, at = [], 2
    while data.startswith(b"\xff\xd8") and at + 4 <= len(data) and data[at] == 0xFF:
        marker, length = struct.unpack(">xBH", data[at : at + 4])
        segments.append((marker, data[at + 4 : at + 2 + length]))
        at += 2 + max(2, length)
        if marker == 0xDA:
            break
    if not segments:
        return data
    one = rng.randrange(len(segments))
    marker, content = segments[one]
    how = rng.random()
    if how < 0.7:
        content = pickle(content, change, rng) if rng.random() < 0.5 else change(content)
        segments[one] = (marker, content)
    elif how < 0.85:
        segments.insert(one, segments[rng.randrange(len(segments))])
    else:
        segments[one] = (
            rng.choice((0xC0, 0xC2, 0xDB, 0xDD, 0xE1, 0xE2, 0xEF, 0xEB, 0xFE)),
            content,
        )
    return b"\xff\xd8" + b"".join(
        struct.pack(">BBH", 0xFF, marker, min(65535, len(content) + 2)) + content[:65533]
        for marker, content in segments
    ) + data[at:]  # fmt: skip


def riff(data: bytes, change: Change, rng: random.Random) -> bytes:
    chunks, at = [], 12
    while data.startswith(b"RIFF") and at + 8 <= len(data) and len(chunks) < 100:
        kind, length = struct.unpack("<4sI", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + length]))
        at += 8 + length + length % 2
    if not chunks:
        return data
    one = rng.randrange(len(chunks))
    kind, content = chunks[one]
    chunks[one] = (kind, change(content))
    if rng.random() < 0.2:
        chunks.insert(
            one, (rng.choice((b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP ", b"LIST")), content)
        )
    body = b"".join(
        kind + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for kind, content in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + data[8:12] + body


def picture(data: bytes, change: Change, rng: random.Random) -> bytes:
    return riff(jpeg(png(data, change, rng), change, rng), change, rng)


INSIDE = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"dinf", b"edts", b"udta", b"moof", b"traf")


def boxes(data: bytes, change: Change, rng: random.Random) -> bytes:
    """An MP4 with one box changed somewhere inside; the sizes around it follow."""
    if data[4:8] != b"ftyp":
        return riff(data, change, rng)
    return _boxes(data, change, rng, 0)


def _boxes(data: bytes, change: Change, rng: random.Random, depth: int) -> bytes:
    found, at = [], 0
    while at + 8 <= len(data) and len(found) < 200:
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        size = max(8, size)
        found.append((kind, data[at + 8 : at + size]))
        at += size
    if not found:
        return change(data)
    containers = [i for i, (kind, _) in enumerate(found) if kind in INSIDE]
    one = rng.choice(containers) if containers and rng.random() < 0.8 else rng.randrange(len(found))
    kind, content = found[one]
    if kind in INSIDE and depth < 12:
        content = _boxes(content, change, rng, depth + 1)
    elif rng.random() < 0.85:
        content = content[:4] + change(content[4:])
    found[one] = (kind, content)
    if rng.random() < 0.1:
        found.insert(one, found[rng.randrange(len(found))])
    return b"".join(struct.pack(">I4s", len(c) + 8, k) + c for k, c in found)


def pak(data: bytes, change: Change, rng: random.Random) -> bytes:
    if len(data) < 16:
        return data
    version, length = struct.unpack("<QQ", data[:16])
    table, rest = data[16 : 16 + length], data[16 + length :]
    how = rng.random()
    if how < 0.6:
        table = pickle(table, change, rng)
    elif how < 0.8:
        table = change(table)
    else:
        rest = change(rest)
    return struct.pack("<QQ", version, len(table)) + table + rest


def protobuf(data: bytes, change: Change, rng: random.Random) -> bytes:
    """A message with one field changed, however deep; the lengths around it follow."""
    fields = list(_fields(data))
    if not fields:
        return change(data)
    one = rng.randrange(len(fields))
    key, content = fields[one]
    how = rng.random()
    if key & 7 == 2 and how < 0.75:
        fields[one] = (key, protobuf(content, change, rng) if len(content) > 1 else change(content))
    elif how < 0.85:
        fields[one] = (key & ~7 | 2, change(content)) if key & 7 == 2 else (key, _varint(rng.choice(
            (0, 1, 2, 7, 127, 128, 2**31, 2**32, 2**63 - 1, 2**64 - 1))))  # fmt: skip
    elif how < 0.92:
        fields.insert(one, fields[rng.randrange(len(fields))])
    elif how < 0.96:
        fields[one] = (rng.randrange(1, 30) << 3 | key & 7, content)
    else:
        del fields[one]
    return b"".join(
        _varint(key) + (_varint(len(content)) if key & 7 == 2 else b"") + content
        for key, content in fields
    )


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    at, found = 0, []
    try:
        while at < len(data):
            key, at = _read_varint(data, at)
            kind = key & 7
            if kind == 2:
                size, at = _read_varint(data, at)
            elif kind == 0:
                size = _read_varint(data, at)[1] - at
            else:
                size = {1: 8, 5: 4}[kind]
            if at + size > len(data):
                return iter(())
            found.append((key, data[at : at + size]))
            at += size
    except (IndexError, KeyError):
        return iter(())  # no message
    return iter(found)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def database(data: bytes, change: Change, rng: random.Random) -> bytes:
    """An SQLite file with a cell, a row or a table put otherwise by SQL."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.sqlite")
        path.write_bytes(data)
        with suppress(sqlite3.Error, OverflowError, ValueError, IndexError):
            with closing(sqlite3.connect(path)) as base:
                base.execute("pragma trusted_schema=off")
                tables = [row[0] for row in base.execute("select name from sqlite_master")]
                table = rng.choice(tables)
                columns = [row[1] for row in base.execute(f'pragma table_info("{table}")')]
                value = rng.choice((*ODD[:13], b"\xff\0", "[1,2]", "\0", 2**62))
                value = None if isinstance(value, int) and abs(value) >= 2**63 else value
                how = rng.random()
                if how < 0.7:
                    base.execute(f'update "{table}" set "{rng.choice(columns)}" = ?', [value])
                elif how < 0.85:
                    base.execute(f'alter table "{table}" drop column "{rng.choice(columns)}"')
                else:
                    base.execute(
                        f'alter table "{table}" rename column "{rng.choice(columns)}" to x'
                    )
                base.commit()
            return path.read_bytes()
    return data
