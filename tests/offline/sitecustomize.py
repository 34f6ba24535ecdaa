"""No sockets but to this machine, in the tests and in every Python that they start.

Python imports a module of this name by itself when its folder is on the path, which
tests/conftest.py sees to. An audit hook sees the connections and look-ups of Python code whatever
way it takes, and cannot be removed again. The standard library's own `sitecustomize`, should the
system have one, is for package managers and not missed.
"""

from __future__ import annotations

import ipaddress
import socket
import sys

LOCAL_NAMES = ("", "localhost", None)
WATCHED = {
    "socket.connect": 1,  # where the address is among the event's arguments
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}


class NetworkBlocked(OSError):
    """A test, or the code under test, reached for another machine."""


def is_local(address: object) -> bool:
    if isinstance(address, tuple):
        address = address[0]
    if isinstance(address, (bytes, bytearray)):
        address = bytes(address).decode("utf-8", "replace")
    if address in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(str(address).partition("%")[0]).is_loopback
    except ValueError:
        return False


def watch(event: str, args: tuple[object, ...]) -> None:
    place = WATCHED.get(event)
    if place is None:
        return
    is_unix = place == 1 and getattr(args[0], "family", None) == getattr(socket, "AF_UNIX", -1)
    if not is_unix and not is_local(args[place]):
        raise NetworkBlocked(f"tests reach no network, but {event} was called for {args[place]!r}")


def block() -> None:
    """Install the hook once a process."""
    if not getattr(sys, "_accel_tests_offline", False):
        sys._accel_tests_offline = True  # type: ignore[attr-defined]
        sys.addaudithook(watch)


block()
