"""The machine that a pickle is a program for, without anything it could do harm with.

It has a stack, a memo and the opcodes that describe data. A name in a pickle stands for nothing but
itself until a `Vocabulary`, one for each use, says what a call of it gives; a name that it does not
know is refused before anything is done with it. No byte count of the file is trusted further than
the file reaches, and the result is walked once, so that neither loops nor shared parts that unfold
without end reach the caller.

Source of the format: PEP 307, PEP 3154, and the opcodes documented in Python's `pickletools`.
"""

from __future__ import annotations

import gc
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from accel.core import InputError

MAX_INT_BYTES = 16
MAX_NAME = 200  # characters of a module or of what it holds
SHARING = 16
MAX_STACK = 1_000_000  # writers put long lists down in batches of a thousand


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a pickle may make of itself.

    opcodes: steps of its program.
    containers: lists, tuples and dictionaries that are made on the way, even if thrown away: an
        empty one takes sixty times the byte that asks for it.
    items: values in all containers, a shared one counted wherever it appears.
    bytes: of all strings and arrays, counted the same way. Both are also held to SHARING times the
        file's size: in honest files little is shared.
    depth: containers within containers.
    """

    opcodes: int = 5_000_000
    containers: int = 1_000_000
    items: int = 5_000_000
    bytes: int = 1 << 34
    depth: int = 32


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Name:
    """A global that the pickle mentioned; stands for nothing but its name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def pair(self) -> tuple[str, str]:
        return self.module, self.name


class Vocabulary:
    """What the names in a pickle stand for, in one use of pickles; this one knows none.

    leaves: types, beside the plain ones, that may be part of the result.
    keys: types, beside str, bytes, int and bool, that may be keys of a dictionary.
    """

    leaves: tuple[type, ...] = ()
    keys: frozenset[type] = frozenset()

    def knows(self, name: Name) -> bool:
        return False

    def call(self, machine: Machine, name: Name, args: tuple[Any, ...]) -> Any:
        """What calling a known name gives (REDUCE, NEWOBJ)."""
        raise machine.refuse("must hold data only", f"a call of {name}")

    def build(self, machine: Machine, old: Any, state: Any) -> Any:
        """What `old` is once it has been given its state (BUILD)."""
        raise machine.refuse("must hold data only", f"a state for {type(old).__name__}")

    def persistent(self, machine: Machine, what: Any) -> Any:
        """What stands outside of the pickle (BINPERSID)."""
        raise machine.refuse("must hold data only", "opcode BINPERSID")

    def swallows(self, container: Any) -> bool:
        """Whether items for `container` are to be dropped."""
        return False

    def is_unfinished(self, value: Any) -> bool:
        """Whether `build` may put another value in the place of this one."""
        return False


_MARK = object()
_NUMBERS = {type(None), bool, int, float}
_KEYS = {str, bytes, int, bool}


class Machine:
    """Runs one pickle. `load` is all that others call; vocabularies use `refuse`."""

    def __init__(self, data: bytes, who: str, limits: Limits, vocabulary: Vocabulary):
        self.data, self.who, self.limits, self.vocabulary = data, who, limits, vocabulary
        self.keys = _KEYS | vocabulary.keys
        self.at = 0
        self.containers = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.unfinished: dict[int, list[int]] = {}  # id of what BUILD may replace -> memo indices

    def load(self) -> Any:
        """The value that the pickle leaves; InputError for all that is not plain, whole data."""
        # The garbage collector would visit all that was made, again and again; what is made here is
        # bounded and holds no loops in an honest file.
        collects = gc.isenabled()
        gc.disable()
        try:
            result = self.run()
        except (struct.error, IndexError, KeyError) as error:
            # Reads beyond the end, from an empty stack, from an unset memo.
            raise self.refuse("must be whole", f"one that breaks off ({error!r:.60})") from None
        finally:
            if collects:
                gc.enable()
        _walk(result, self)
        return result

    def refuse(self, must: str, got: object) -> InputError:
        text = " ".join(str(got).split())[:120]
        return InputError(f"{self.who}: pickle {must}, got {text} at byte {self.at}")

    def run(self) -> Any:
        data, table, size = self.data, _OPCODES, len(self.data)
        for _ in range(self.limits.opcodes):
            if self.at >= size:
                raise self.refuse("must end with STOP", "its end")
            code = data[self.at]
            self.at += 1
            if code == 0x2E:  # STOP
                if len(self.stack) != 1 or self.stack[0] is _MARK:
                    raise self.refuse("must leave one value", f"{len(self.stack)}")
                return self.stack[0]
            step = table.get(code)
            if step is None:
                raise self.refuse("must hold data only", f"opcode {_opcode_name(code)}")
            step(self)
        raise self.refuse(f"must end within {self.limits.opcodes} steps", "more")

    # What opcodes are made of.

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise self.refuse("must be whole", f"a length of {count} bytes")
        self.at += count
        return bytes(self.data[self.at - count : self.at])

    def number(self, layout: struct.Struct) -> Any:
        (value,) = layout.unpack_from(self.data, self.at)
        self.at += layout.size
        return value

    def push(self, value: Any) -> None:
        self.stack.append(value)
        if len(self.stack) > MAX_STACK:
            raise self.refuse(f"must have {MAX_STACK} values on its stack at most", "more")

    def make(self, value: Any) -> None:
        self.containers += 1
        if self.containers > self.limits.containers:
            raise self.refuse(f"must make {self.limits.containers} containers at most", "more")
        self.push(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise self.refuse("must have a value here", "a mark")
        return value

    def since_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise self.refuse("must have set a mark", "none")

    def text(self, length: int) -> None:
        try:
            self.push(str(self.take(length), "utf-8", "surrogatepass"))
        except UnicodeDecodeError as error:
            raise self.refuse("must hold UTF-8", error.reason) from None

    def integer(self, length: int) -> None:
        if length > MAX_INT_BYTES:
            raise self.refuse(f"must hold integers of {MAX_INT_BYTES} bytes at most", length)
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def get(self, index: int) -> None:
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        value = self.stack[-1]
        if value is _MARK:
            raise self.refuse("must have a value here", "a mark")
        self.memo[index] = value
        if len(self.memo) > self.limits.containers + MAX_STACK:
            raise self.refuse("must remember fewer values", f"{len(self.memo)}")
        if self.vocabulary.is_unfinished(value):
            self.unfinished.setdefault(id(value), []).append(index)

    def into(self, kind: type) -> Any:
        """The container on the stack that items go into; None where they are dropped."""
        value = self.stack[-1]
        if type(value) is kind:
            return value
        if self.vocabulary.swallows(value):
            return None
        raise self.refuse(f"must have a {kind.__name__} here", type(value).__name__)

    def append(self, items: list[Any]) -> None:
        into = self.into(list)
        if into is not None:
            into.extend(items)

    def set_items(self, pairs: list[Any]) -> None:
        into = self.into(dict)
        if len(pairs) % 2:
            raise self.refuse("must hold pairs", f"{len(pairs)} values")
        if into is None:
            return
        for key, value in zip(pairs[::2], pairs[1::2]):
            # A key made of shared tuples, or many large numbers of one hash, would take forever.
            if type(key) not in self.keys or (type(key) is int and abs(key) >= 2**60):
                raise self.refuse("must have keys of str or small int", type(key).__name__)
            into[key] = value

    def name(self, module: Any, name: Any) -> None:
        named = Name(str(module)[:MAX_NAME], str(name)[:MAX_NAME])
        if not self.vocabulary.knows(named):
            raise self.refuse("must hold data only", f"the name {module!s:.60}.{name!s:.60}")
        self.push(named)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + MAX_NAME)
        if end < 0:
            raise self.refuse("must hold names of one line", "a longer one")
        line = self.take(end - self.at)
        self.at += 1
        return line.decode("ascii", "replace")

    def call(self) -> None:
        args, what = self.pop(), self.pop()
        if type(what) is not Name or type(args) is not tuple:
            raise self.refuse("must hold data only", f"a call of {type(what).__name__}")
        self.push(self.vocabulary.call(self, what, args))

    def build(self) -> None:
        state, old = self.pop(), self.pop()
        new = self.vocabulary.build(self, old, state)
        # What was remembered before it was finished is replaced wherever it was remembered.
        for index in self.unfinished.pop(id(old), []):
            if self.memo[index] is old:
                self.memo[index] = new
        self.push(new)


def brief(value: Any) -> str:
    """A few words on a hostile value: printing all of it might never end."""
    if type(value) is tuple:
        return "(" + ", ".join(brief(part) for part in value[:4] if type(part) is not tuple) + ")"
    if type(value) in (str, int, float, bool, type(None)):
        return repr(value)[:40]
    return str(value)[:40] if isinstance(value, type) else type(value).__name__


def _walk(root: Any, machine: Machine) -> None:
    """Count what the caller would meet by following every reference, and refuse loops."""
    limits, items, size = machine.limits, 0, 0
    free = 10_000 + SHARING * len(machine.data)
    most_items, most_bytes = min(limits.items, free), min(limits.bytes, free)
    open_now: set[int] = set()  # containers that we are inside of
    todo: list[tuple[Any, bool]] = [(root, False)]
    while todo:
        value, leaving = todo.pop()
        kind = type(value)
        if leaving:
            open_now.discard(id(value))
            continue
        items += 1
        if kind in _NUMBERS:
            continue
        if kind in (list, tuple, dict):
            if id(value) in open_now:
                raise machine.refuse("must not hold itself", kind.__name__)
            open_now.add(id(value))
            if len(open_now) > limits.depth:
                raise machine.refuse(f"must nest {limits.depth} deep at most", "more")
            items += len(value)
            todo.append((value, True))
            inside = [*value.keys(), *value.values()] if kind is dict else value
            todo += [(part, False) for part in inside if type(part) not in _NUMBERS]
        elif kind in (str, bytes):
            size += len(value)
        elif isinstance(value, machine.vocabulary.leaves):
            size += getattr(value, "nbytes", 0)
        else:
            what = f"the name {value}" if kind is Name else kind.__name__
            raise machine.refuse("must hold data only", what)
        if items > most_items or size > most_bytes:
            must = f"must hold {most_items} items and {most_bytes} bytes at most"
            raise machine.refuse(must, "more")


def _opcode_name(code: int) -> str:
    from pickletools import opcodes

    named = {op.code: op.name for op in opcodes}
    return named.get(chr(code), f"0x{code:02x}")


# --- opcodes --------------------------------------------------------------------------------------

_U8, _U16, _U32, _U64 = (struct.Struct("<" + c) for c in "BHIQ")
_I32, _F64 = struct.Struct("<i"), struct.Struct(">d")


def _dup(machine: Machine) -> None:
    value = machine.pop()
    machine.push(value)
    machine.push(value)


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.name(*(n if type(n) is str else "?" for n in (module, name)))


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _long4(machine: Machine) -> None:
    length = machine.number(_I32)
    if length < 0:
        raise machine.refuse("must hold integers of some bytes", length)
    machine.integer(length)


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.make(tuple(reversed(items)))

    return step


def _dict(machine: Machine) -> None:
    pairs = machine.since_mark()
    machine.make({})
    machine.set_items(pairs)


def _frame(machine: Machine) -> None:
    length = machine.number(_U64)
    if length > len(machine.data) - machine.at:
        raise machine.refuse("must be whole", f"a frame of {length} bytes")


def _proto(machine: Machine) -> None:
    version = machine.number(_U8)
    if not 2 <= version <= 5:
        raise machine.refuse("must be of protocol 2 to 5", version)


_OPCODES: dict[int, Callable[[Machine], object]] = {
    code[0]: step
    for code, step in {
        pickle.PROTO: _proto,
        pickle.FRAME: _frame,
        pickle.MARK: lambda m: m.push(_MARK),
        pickle.POP: lambda m: m.stack.pop(),
        pickle.POP_MARK: lambda m: m.since_mark(),
        pickle.DUP: _dup,
        pickle.NONE: lambda m: m.push(None),
        pickle.NEWTRUE: lambda m: m.push(True),
        pickle.NEWFALSE: lambda m: m.push(False),
        pickle.BININT: lambda m: m.push(m.number(_I32)),
        pickle.BININT1: lambda m: m.push(m.number(_U8)),
        pickle.BININT2: lambda m: m.push(m.number(_U16)),
        pickle.LONG1: lambda m: m.integer(m.number(_U8)),
        pickle.LONG4: _long4,
        pickle.BINFLOAT: lambda m: m.push(m.number(_F64)),
        pickle.SHORT_BINUNICODE: lambda m: m.text(m.number(_U8)),
        pickle.BINUNICODE: lambda m: m.text(m.number(_U32)),
        pickle.BINUNICODE8: lambda m: m.text(m.number(_U64)),
        pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.number(_U8))),
        pickle.BINBYTES: lambda m: m.push(m.take(m.number(_U32))),
        pickle.BINBYTES8: lambda m: m.push(m.take(m.number(_U64))),
        pickle.BYTEARRAY8: lambda m: m.push(m.take(m.number(_U64))),
        pickle.EMPTY_LIST: lambda m: m.make([]),
        pickle.APPEND: lambda m: m.append([m.pop()]),
        pickle.APPENDS: lambda m: m.append(m.since_mark()),
        pickle.LIST: lambda m: m.make(m.since_mark()),
        pickle.EMPTY_TUPLE: lambda m: m.make(()),
        pickle.TUPLE: lambda m: m.make(tuple(m.since_mark())),
        pickle.TUPLE1: _tuple(1),
        pickle.TUPLE2: _tuple(2),
        pickle.TUPLE3: _tuple(3),
        pickle.EMPTY_DICT: lambda m: m.make({}),
        pickle.DICT: _dict,
        pickle.SETITEM: _set_item,
        pickle.SETITEMS: lambda m: m.set_items(m.since_mark()),
        pickle.BINGET: lambda m: m.get(m.number(_U8)),
        pickle.LONG_BINGET: lambda m: m.get(m.number(_U32)),
        pickle.BINPUT: lambda m: m.put(m.number(_U8)),
        pickle.LONG_BINPUT: lambda m: m.put(m.number(_U32)),
        pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
        pickle.GLOBAL: lambda m: m.name(m.line(), m.line()),
        pickle.STACK_GLOBAL: _stack_global,
        pickle.REDUCE: Machine.call,
        pickle.NEWOBJ: Machine.call,
        pickle.BUILD: Machine.build,
        pickle.BINPERSID: lambda m: m.push(m.vocabulary.persistent(m, m.pop())),
    }.items()
}
