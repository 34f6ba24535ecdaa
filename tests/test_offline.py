"""The whole suite runs without a network: what reaches for one fails."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request

import pytest

REACH = "import socket; socket.create_connection(('192.0.2.1', 80), 1)"


def test_connections_and_look_ups_are_refused():
    with pytest.raises(OSError, match="tests reach no network"):
        socket.create_connection(("192.0.2.1", 80), 1)
    with pytest.raises(OSError, match="tests reach no network"):
        socket.getaddrinfo("example.org", 80)
    with pytest.raises(OSError, match="tests reach no network"):
        urllib.request.urlopen("http://192.0.2.1/", timeout=1)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        pytest.raises(OSError, match="tests reach no network"),
    ):
        udp.sendto(b"x", ("192.0.2.1", 53))


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), 1).close()
    first, second = socket.socketpair()
    first.send(b"x")
    assert second.recv(1) == b"x"


def test_a_python_that_a_test_starts_is_offline_too():
    ran = subprocess.run([sys.executable, "-c", REACH], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 1
    assert "tests reach no network" in ran.stderr
