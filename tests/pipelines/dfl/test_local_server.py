"""Pages on this machine: who may ask, how much, and that nobody makes them print."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from http.client import HTTPConnection

import pytest

from accel.core import ConfigError
from accel.pipelines.dfl import local_server
from accel.pipelines.dfl.live import LivePage
from accel.pipelines.dfl.local_server import HOST, MAX_CONNECTIONS


@pytest.fixture
def page():
    with closing(LivePage(0)) as made:
        made.say("<b>Iteration 5")
        made.show("preview", b"\x89PNG")
        yield made


def port_of(page: LivePage) -> int:
    return int(page.url.rsplit(":", 1)[1].strip("/"))


def ask(page: LivePage, path: str = "/", method: str = "GET", **headers: str):
    with closing(HTTPConnection(HOST, port_of(page), timeout=20)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


def test_the_page_shows_what_it_was_told(page):
    status, html, headers = ask(page)
    assert status == 200
    assert b"&lt;b&gt;Iteration 5" in html
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "ython" not in headers["Server"]
    assert ask(page, "/preview.png?3")[1] == b"\x89PNG"
    assert ask(page, Host="localhost:9999")[0] == 200, "a tunnel has another port"


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": f"evil.{HOST}:80"}, {"Host": ""},
                {"Host": f"{HOST}:80.evil.example"}, {"Host": f"{HOST}:80@evil.example"},
                {"Host": "localhost:evil"}, {"Host": HOST},
                {"Origin": "http://evil.example"}, {"Origin": "null"}], ids=str
)  # fmt: skip
def test_pages_of_others_read_nothing(page, headers):
    assert ask(page, **headers)[0] == 404


@pytest.mark.parametrize("twice", ["Host: evil.example", "Origin: http://evil.example"])
def test_a_request_that_says_twice_where_it_comes_from_reads_nothing(page, twice):
    own = f"{HOST}:{port_of(page)}"
    request = f"GET / HTTP/1.1\r\nHost: {own}\r\nOrigin: http://{own}\r\n{twice}\r\n\r\n"
    with socket.create_connection((HOST, port_of(page)), 10) as connection:
        connection.sendall(request.encode())
        assert b" 404 " in connection.recv(100)


@pytest.mark.parametrize(
    "path", ["/../../etc/passwd", "/%2e%2e/x", "//etc/passwd", "/preview.png/../x",
             "/" + "x" * 60_000], ids=lambda path: path[:20]
)  # fmt: skip
def test_there_is_nothing_else(page, path):
    assert ask(page, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_nothing_can_be_sent(page, method):
    assert ask(page, "*" if method == "OPTIONS" else "/", method)[0] == 501


@pytest.mark.parametrize(
    "sent", [b"\0" * 1000, b"GET / HTTP/9.9\r\n\r\n", b"GET /" + b"x" * 70_000, b"\xff\xfe\r\n\r\n",
             b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"GET"], ids=lambda b: b[:9]
)  # fmt: skip
def test_nonsense_is_answered_or_dropped_and_nothing_is_printed(page, sent, capfd):
    with socket.create_connection((HOST, port_of(page)), 10) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(4096):
            pass
    assert ask(page)[0] == 200
    assert capfd.readouterr() == ("", "")


def test_who_keeps_connections_open_is_not_served_for_ever(page, monkeypatch, capfd):
    monkeypatch.setattr(local_server.LocalHandler, "timeout", 3)
    slow = [socket.create_connection((HOST, port_of(page)), 10) for _ in range(MAX_CONNECTIONS + 8)]
    for connection in slow:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
    refused = [one for one in slow if is_closed(one)]
    assert refused
    end = time.monotonic() + 20
    while not all(is_closed(one) for one in slow) and time.monotonic() < end:
        time.sleep(0.1)
    assert ask(page)[0] == 200
    assert capfd.readouterr() == ("", "")
    for connection in slow:
        connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_no_name_is_looked_up(monkeypatch):
    def look_up(*unused):
        raise AssertionError("a name server was asked")

    monkeypatch.setattr(socket, "getfqdn", look_up)
    LivePage(0).close()


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match=r"preview_port must lie in 0\.\.65535"):
        LivePage(port)


def test_a_port_that_is_taken_is_refused(page):
    with pytest.raises(ConfigError, match="must be free"):
        LivePage(port_of(page))
