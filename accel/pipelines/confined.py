"""A child process that gives up what a hostile file could use, then does one job.

`python -m accel.pipelines.confined REQUEST` is how `accel.pipelines.untrusted` starts it. Until the
limits hold nothing but the standard library is loaded here: what limits, sockets and threads allow
can only be decided before other modules open any.

Sources: setrlimit(2), prctl(2), seccomp(2), unshare(2); linux/filter.h for the filter's codes.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER = 38, 22, 2  # of prctl
DIE_WITH_PARENT = 1
NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000  # of unshare
UNIX_SOCKETS, REFUSED = 1, 13  # AF_UNIX, EACCES
# By machine: its number in the kernel's audit interface; the calls socket and io_uring_setup.
CALLS = {"x86_64": (0xC000003E, 41, 425), "aarch64": (0xC00000B7, 198, 425)}
X32 = 0x40000000  # a second set of call numbers on x86_64
MAX_RESULT_BYTES = 16 << 20


def confine(request: dict[str, Any]) -> None:
    """Set the limits of a request for the rest of this process; they cannot be raised again."""
    mega = 1 << 20
    for kind, soft, hard in (
        (resource.RLIMIT_DATA, request["data_mb"] * mega, request["data_mb"] * mega),
        (resource.RLIMIT_AS, request["address_mb"] * mega, request["address_mb"] * mega),
        (resource.RLIMIT_CPU, request["cpu_s"], request["cpu_s"] + 5),
        (resource.RLIMIT_FSIZE, request["file_mb"] * mega, request["file_mb"] * mega),
        (resource.RLIMIT_NOFILE, request["open_files"], request["open_files"]),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, most = resource.getrlimit(kind)
        if soft:  # 0 is no limit of ours
            allowed = [n for n in (hard, most) if n != resource.RLIM_INFINITY]
            resource.setrlimit(kind, (min(soft, *allowed), min(allowed)))
    # The soft limit asks the job to stop as Ctrl-C would, the hard one ends it.
    signal.signal(signal.SIGXCPU, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    sys.addaudithook(_no_sockets)
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
        if not _filter_sockets(libc):
            _leave_network(libc)


def _no_sockets(event: str, args: tuple[Any, ...]) -> None:
    uses_socket = event in ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
    looks_up = event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
    if looks_up or (uses_socket and getattr(args[0], "family", None) != UNIX_SOCKETS):
        raise PermissionError(REFUSED, f"a confined process reaches no network ({event})")


def _filter_sockets(libc: ctypes.CDLL) -> bool:
    """Let the kernel refuse every socket but those between processes, native code's as well."""
    if platform.machine() not in CALLS:
        return False
    machine, socket_call, ring_call = CALLS[platform.machine()]
    load, equal, above, answer = 0x20, 0x15, 0x35, 0x06
    refuse, allow = 0x00050000 | REFUSED, 0x7FFF0000
    steps = [
        (load, 0, 0, 4),  # the machine's number
        (equal, 0, 6, machine),  # else refuse
        (load, 0, 0, 0),  # the call's number
        (above, 4, 0, X32),  # refuse
        (equal, 3, 0, ring_call),  # refuse: a ring could open sockets unseen
        (equal, 0, 3, socket_call),  # else allow
        (load, 0, 0, 16),  # its first argument, the family
        (equal, 1, 0, UNIX_SOCKETS),  # allow
        (answer, 0, 0, refuse),
        (answer, 0, 0, allow),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
    if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return False
    return not libc.prctl(SET_SECCOMP, FILTER, ctypes.create_string_buffer(program), 0, 0)


def _leave_network(libc: ctypes.CDLL) -> None:
    """Where there is no filter: a network of this process's own, with nothing in it."""
    if not libc.unshare(NEW_NETWORK):
        return
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_NETWORK | NEW_USER):
        return  # not permitted here; Python's own sockets stay refused
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def main() -> int:
    """Do what the request says: a command line, or a function whose result goes to a pipe."""
    request = json.loads(sys.argv[1])
    confine(request)
    if "command" in request:
        try:
            return int(_named(request["function"])(request["command"]))
        except MemoryError:
            return _out_of_memory(request)
    with os.fdopen(request["pipe"], "wb") as pipe:
        pipe.write(json.dumps(_answer(request)).encode())
    return 0


def _named(function: str) -> Callable[..., Any]:
    """What "module:name" stands for."""
    module, _, name = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    from accel.core import Cancelled, ConfigError, InputError, Refused

    try:
        return {"result": _named(request["function"])(*request["arguments"])}
    except (InputError, ConfigError, Refused, Cancelled) as error:
        return {"error": type(error).__name__, "text": str(error)}
    except MemoryError:
        return {"error": "InputError", "text": "needs more memory than a confined process has"}
    except OSError as error:
        return {"error": "InputError", "text": error.strerror or type(error).__name__}


def _out_of_memory(request: dict[str, Any]) -> int:
    print(f"accel: must work in {request['data_mb']} MB of memory, needs more", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
