"""Runs attacks one after the other and tells what each did: JSON, one a line.

`python -m tests.hostile.battery FOLDER URL NAME...`. What all commands share is imported once. Each
attack then gets a copy of the process, because it may end it, and because its peak of memory and
its sockets are watched; its files are made in a copy of that. With CONFINED=1 in the environment
each command is run with `--untrusted`: the child that does the work is a copy too, where a user's
would start anew, and all else of the confinement is as it always is.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

SOCKETS: list[str] = []
CONFINED = os.environ.get("CONFINED") == "1"
SHARED = ("accel.pipelines.swap", "accel.pipelines.verify")
# What only some commands load is not counted as time, and not as memory of the others.
OWN = {"generate": ("accel.pipelines.generate.job",)}
HANGS_S = 120  # by the clock; the machine may be busy with other things


def watch(event: str, args: tuple[object, ...]) -> None:
    if event in (
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.system",
        "os.exec",
    ):
        SOCKETS.append(f"{event} {args[-1]!r}"[:200])


class Copy:
    """A confined child that is a copy of this process, for `untrusted` in place of Popen's."""

    def __init__(self, request: dict[str, Any], stderr: int | None = subprocess.PIPE) -> None:
        receive, send = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(receive)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            if stderr is not None:
                os.dup2(send, 2)
            os.close(send)
            os._exit(self._work(request))
        os.close(send)
        self.stderr = os.fdopen(receive, "rb")

    def _work(self, request: dict[str, Any]) -> int:
        from accel.pipelines import confined

        sys.argv = ["confined", json.dumps(request)]
        try:
            return confined.main()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            sys.excepthook(*sys.exc_info())  # as Python ends
            return 1
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, ended = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(ended)
        return self.returncode

    def wait(self, timeout: float = HANGS_S) -> int:
        end = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a copy", timeout)
            time.sleep(0.005)
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


class Maker:
    """A process that makes the files of attacks, each in a copy of it that lives until the next.

    What it loads for that is neither in the memory nor in the time of a command.
    """

    def __init__(self, folder: Path, url: str) -> None:
        asked, ask = os.pipe()
        told, tell = os.pipe()
        if os.fork() == 0:
            os.close(ask)
            with ending(), os.fdopen(asked) as names, os.fdopen(tell, "w") as answers:
                serve(names, answers, folder, url)
        os.close(asked)
        os.close(tell)
        self._ask, self._told = os.fdopen(ask, "w"), os.fdopen(told)

    def words(self, name: str) -> list[str]:
        """Make an attack's files; its command line."""
        print(name, file=self._ask, flush=True)
        words, os.environ["PATH"] = json.loads(self._told.readline())
        return words


def serve(names: TextIO, answers: TextIO, folder: Path, url: str) -> None:
    load(("tests.hostile.every",))
    last = 0
    for name in map(str.strip, names):
        end(last)
        last = os.fork()
        if last == 0:
            with ending():
                told = json.dumps(make(name, folder / name, url))
                print(told, file=answers, flush=True)
                signal.pause()  # its threads go on changing files
    end(last)


def end(child: int) -> None:
    if child:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@contextmanager
def ending() -> Iterator[None]:
    """End this copy of the process with what it does, whatever that raises."""
    try:
        yield
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        os._exit(1)
    os._exit(0)


def make(name: str, here: Path, url: str) -> tuple[list[str], str]:
    from tests.hostile.attacks import portrait
    from tests.hostile.every import ATTACKS

    here.mkdir()
    portrait(here)
    try:
        return ATTACKS[name].build(here, url), os.environ["PATH"]
    except Exception as error:
        traceback.print_exc()
        return [f"could not be made: {error!r}"], os.environ["PATH"]


def run(name: str, folder: Path, words: list[str]) -> dict[str, object]:
    """Run one attack in this process, which ends after it."""
    here = folder / name
    os.chdir(here)
    if os.path.lexists(here / "home"):  # an attack's own
        os.environ["ACCEL_HOME"] = str(here / "home")
    load(OWN.get(words[0], ()))
    SOCKETS.clear()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, theirs = listing(here), content_of(here / "theirs")
    for kind, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{name}.{kind}", os.O_RDWR | os.O_CREAT), number)
    clock, busy = time.monotonic(), busy_s()
    status = status_of(["--untrusted", *words] if CONFINED else words)
    seconds, used_s, peak = time.monotonic() - clock, busy_s() - busy, peak_mb()
    return {"status": status, "seconds": seconds, "busy_s": used_s, "peak_mb": peak,
            "sockets": SOCKETS, "kept": theirs == content_of(here / "theirs"),
            "words": words, **altered(before, listing(here))}  # fmt: skip


def status_of(words: list[str]) -> object:
    """What a command line ends with: its status, or what it should not have raised."""
    from accel.cli import main

    try:
        return main(words)
    except SystemExit as stop:
        return stop.code
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:500]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def busy_s() -> float:
    """Processor time of this process, or of the children that have ended."""
    if not CONFINED:
        return time.process_time()
    child = resource.getrusage(resource.RUSAGE_CHILDREN)
    return child.ru_utime + child.ru_stime


def peak_mb() -> float:
    """The peak of this process, or of its largest child."""
    if CONFINED:
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of all that lies below a folder; links are not followed."""
    found = {}
    for place, folders, files in os.walk(folder):
        for one in (os.path.join(place, name) for name in folders + files):
            told = os.lstat(one)
            is_folder = stat.S_ISDIR(told.st_mode)  # whose time changes with what is put into it
            found[os.path.relpath(one, folder)] = (told.st_size, told.st_mtime_ns) * (not is_folder)
    return found


def altered(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict:
    changed = [name for name in before if before[name] != after.get(name)]
    return {"new": sorted(after.keys() - before.keys()), "changed": sorted(changed)}


def load(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def content_of(place: Path) -> dict[str, bytes]:
    """What somebody else's file or folder holds, which no attack may change."""
    files = [place] if place.is_file() else sorted(place.rglob("*"))
    return {str(one): one.read_bytes() for one in files if one.is_file()}


def in_child(name: str, folder: Path, words: list[str]) -> dict[str, object]:
    """Run one attack in a copy of this process, stopped after HANGS_S."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(HANGS_S)
        with ending():
            os.write(send, json.dumps(run(name, folder, words)).encode())
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        told = pipe.read()
    _, ended = os.waitpid(child, 0)
    report = json.loads(told) if told else {"status": f"ended by signal {ended & 127}"}
    texts = {end: (folder / f"{name}.{end}").read_text(errors="replace") for end in ("out", "err")}
    return {"name": name, **report, **texts}


def main() -> None:
    folder, url, names = Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    os.environ["ACCEL_HOME"] = str(folder / "home" / str(os.getpid()))
    sys.addaudithook(watch)
    load(SHARED)
    if CONFINED:
        from accel.pipelines import untrusted

        untrusted._start = Copy
    maker = Maker(folder, url)
    for name in names:
        print(json.dumps(in_child(name, folder, maker.words(name))), flush=True)


if __name__ == "__main__":
    main()
