"""An identity for all tests, and proof that nothing talks to the network."""

from __future__ import annotations

import socket

import pytest

from accel.provenance.keys import Identity, local_identity


@pytest.fixture(scope="session")
def identity(tmp_path_factory) -> Identity:
    return local_identity(tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("something opened a socket")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
