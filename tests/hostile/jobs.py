"""What a job in a confined process might do, badly."""

from __future__ import annotations

import ctypes
import os
import socket
import time
from pathlib import Path

from accel.core import ConfigError, InputError


def add(a, b):
    return a + b


def refuse(what):
    raise InputError(f"{what}: must be a clip")


def misconfigured():
    raise ConfigError("crf must lie in 0..51")


def crash(folder):
    ctypes.string_at(1)


def leave(folder):
    os._exit(7)


def fail(folder):
    raise RuntimeError("a bug")


def sleep(folder):
    time.sleep(60)


def eat(folder):
    return len(bytearray(3 << 30))


def eat_slowly(folder):
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20) * 16))
        time.sleep(0.02)


def burn(folder):
    while True:
        pass


def shout(folder):
    return "x" * (17 << 20)


def write_much(folder):
    Path(folder, "large").write_bytes(bytes(2 << 20))


def open_many(folder):
    kept = [open(os.devnull) for _ in range(100)]  # noqa: SIM115
    return len(kept)


def reach(port):
    found = {}
    for name, attempt in (
        ("python", lambda: socket.create_connection(("127.0.0.1", port), 1)),
        ("look_up", lambda: socket.getaddrinfo("localhost", 80)),
    ):
        try:
            attempt()
        except OSError as error:
            found[name] = type(error).__name__
    libc = ctypes.CDLL(None, use_errno=True)
    libc.socket(socket.AF_INET, socket.SOCK_STREAM, 0)
    found["native"] = ctypes.get_errno()
    libc.syscall(425, 8, ctypes.create_string_buffer(120))  # io_uring_setup
    found["ring"] = ctypes.get_errno()
    return found
