"""Runs attacks one after the other and tells what each did: JSON, one a line.

`python -m tests.hostile.battery FOLDER URL NAME...`. What all commands share is imported once; each
attack then gets a copy of the process, because it may end it, and because its peak of memory and
its sockets are watched. With CONFINED=1 in the environment each command is run with `--untrusted`,
and what is told is of the child that does the work.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import stat
import sys
import time
from pathlib import Path

SOCKETS: list[str] = []
CONFINED = os.environ.get("CONFINED") == "1"
SHARED = ("accel.pipelines.swap", "accel.pipelines.verify")
# What only some commands load is not counted as time, and not as memory of the others.
OWN = {"generate": ("accel.pipelines.generate.job",)}
ALONE_MB: list[float] = []  # of a process that has loaded SHARED and nothing of the tests
HANGS_S = 120  # by the clock; the machine may be busy with other things


def watch(event: str, args: tuple[object, ...]) -> None:
    if event in (
        "socket.connect",
        "socket.getaddrinfo",
        "subprocess.Popen",
        "os.system",
        "os.exec",
    ):
        ours = CONFINED and event == "subprocess.Popen" and args[0] == sys.executable
        if not ours:
            SOCKETS.append(f"{event} {args[-1]!r}"[:200])


def resident_mb(what: str = "VmRSS") -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    return 0.0


def run(name: str, folder: Path, url: str) -> dict[str, object]:
    """Run one attack in this process, which ends after it."""
    from accel.cli import main
    from accel.video.stills import give_back
    from tests.hostile.attacks import portrait
    from tests.hostile.every import ATTACKS

    here = folder / name
    here.mkdir()
    portrait(here)
    words = ATTACKS[name].build(here, url)
    os.chdir(here)
    give_back()
    of_tests = resident_mb() - ALONE_MB[0]  # modules and memory of what made the files
    load(OWN.get(words[0], ()))
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    SOCKETS.clear()
    before = listing(here)
    for end, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / f"{name}.{end}", os.O_RDWR | os.O_CREAT), number)
    theirs = content_of(here / "theirs")
    clock, busy = time.monotonic(), time.process_time()
    try:
        status: object = main(["--untrusted", *words] if CONFINED else words)
    except SystemExit as stop:
        status = stop.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"[:500]
    sys.stdout.flush()
    sys.stderr.flush()
    used_s, peak = time.process_time() - busy, resident_mb("VmHWM") - of_tests
    if CONFINED:
        child = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s, peak = child.ru_utime + child.ru_stime, child.ru_maxrss / 1024
    return {"status": status, "seconds": time.monotonic() - clock, "busy_s": used_s,
            "peak_mb": peak, "sockets": SOCKETS, "kept": theirs == content_of(here / "theirs"),
            "words": words, **altered(before, listing(here))}  # fmt: skip


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


def in_child(name: str, folder: Path, url: str) -> dict[str, object]:
    """Run one attack in a copy of this process, stopped after HANGS_S."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(HANGS_S)
        os.write(send, json.dumps(run(name, folder, url)).encode())
        os._exit(0)
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
    ALONE_MB.append(resident_mb())
    for name in names:
        print(json.dumps(in_child(name, folder, url)), flush=True)


if __name__ == "__main__":
    main()
