"""Jobs on files from strangers, done in a child process that has little to give away.

Readers here are careful, but below them are decoders of a million lines. The child has limits on
memory, time, file size and open files, no network, and answers in JSON only; whatever it dies of,
the caller gets one clear error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from accel.core import Cancelled, ConfigError, InputError, Refused
from accel.pipelines.confined import MAX_RESULT_BYTES

LOOK_S = 0.1  # between looks at the child's memory
GRACE_S = 5.0  # from being asked to stop to being ended
ERRORS: dict[str, type[Exception]] = {
    "ConfigError": ConfigError,
    "InputError": InputError,
    "Refused": Refused,
    "Cancelled": Cancelled,
}


@dataclass(frozen=True, kw_only=True)
class ChildLimits:
    """What a child process may take.

    memory_mb: resident memory, looked at ten times a second. data_mb: private memory, which the
        kernel holds it to. address_mb: address space; 0 for jobs on a GPU, whose driver reserves
        far more than it uses.
    seconds: by the clock. cpu_s: of all its cores together.
    file_mb: of one file that it writes. open_files: at a time.
    """

    memory_mb: int = 4096
    data_mb: int = 8192
    address_mb: int = 65536
    seconds: float = 4 * 3600.0
    cpu_s: int = 16 * 3600
    file_mb: int = 65536
    open_files: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (value > 0 or (name == "address_mb" and value == 0)):
                raise ConfigError(f"{name} must be above 0, got {value}")
        if self.memory_mb > self.data_mb:
            object.__setattr__(self, "data_mb", self.memory_mb)


DEFAULT_LIMITS = ChildLimits()


def run_untrusted(
    function: str,  # "module:name", such as "accel.pipelines.verify:report_of"
    *arguments: Any,  # what JSON can say
    limits: ChildLimits = DEFAULT_LIMITS,
) -> Any:
    """Call a function in a confined child process and return its result, passed on as JSON.

    Raises what the function raises of ConfigError, InputError, Refused and Cancelled; InputError
    also when the child crashes, exceeds its limits or answers nonsense.
    """
    receive, send = os.pipe()
    request = {"function": function, "arguments": arguments, "pipe": send, **asdict(limits)}
    who = function.rpartition(":")[2]
    with os.fdopen(receive, "rb") as pipe:
        try:
            child = _start(request, pass_fds=(send,), stdout=subprocess.DEVNULL)
        finally:
            os.close(send)
        answer: list[bytes] = []

        def read() -> None:
            answer.append(pipe.read(MAX_RESULT_BYTES + 1))
            pipe.close()  # who says more than that is not waited for

        reader = threading.Thread(target=read)
        reader.start()
        errors = _Relay(child.stderr, show=False)
        fault = _watch(child, limits)
        reader.join()
        errors.join()
    if fault:
        raise InputError(f"{who}: {fault}")
    return _result(who, b"".join(answer), child.returncode)


def run_command(
    argv: Sequence[str],
    limits: ChildLimits = DEFAULT_LIMITS,
    main: str = "accel.cli:main",  # takes the words, returns an exit status
) -> int:
    """Run an `accel` command line in a confined child process; return its exit status.

    What the command prints is passed on. Raises InputError when the child crashes or exceeds its
    limits; what it had begun to write is removed.
    """
    who = f"accel {argv[0] if argv else ''}".strip()
    before = _partial_files(argv)
    is_terminal = sys.stderr.isatty()  # for a progress bar
    child = _start(
        {"function": main, "command": list(argv), **asdict(limits)},
        stderr=None if is_terminal else subprocess.PIPE,
    )
    errors = _Relay(child.stderr)
    try:
        fault = _watch(child, limits)
    except KeyboardInterrupt:
        if (
            child.returncode < 0
        ):  # else it has said what it leaves, and nobody needs to hear it twice
            raise
        fault = None
    finally:
        errors.join()
    status = child.returncode
    if fault is None and status >= 0 and not (status == 1 and errors.is_traceback):
        return status
    for path in _partial_files(argv) - before:
        with suppress(OSError):
            path.unlink()
    raise InputError(f"{who}: {fault or _end(status)}")


def _start(request: dict[str, Any], **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "accel.pipelines.confined", json.dumps(request)]
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    try:
        return subprocess.Popen(command, **options)
    except OSError as error:  # a command line that is too long, among others
        raise InputError(f"no confined process could be started: {error.strerror}") from error


def _watch(child: subprocess.Popen[bytes], limits: ChildLimits) -> str | None:
    """Wait for the child's end; the limit that it was stopped at, None when it ended by itself."""
    end = time.monotonic() + limits.seconds
    is_main = threading.current_thread() is threading.main_thread()

    def pass_on(*unused: object) -> None:
        child.terminate()
        asked.append(True)

    asked: list[bool] = []
    before = signal.signal(signal.SIGTERM, pass_on) if is_main else None
    try:
        while True:
            with suppress(subprocess.TimeoutExpired):
                child.wait(LOOK_S)
                if asked and child.returncode == -signal.SIGTERM:  # before it listened for one
                    raise Cancelled
                return None
            used = _resident_mb(child.pid)
            if used > limits.memory_mb:
                _stop(child, 0)
                return f"must work in {limits.memory_mb} MB of memory, needs more"
            if time.monotonic() > end:
                _stop(child, GRACE_S)
                return f"must be done in {limits.seconds:g} s, takes longer"
    except KeyboardInterrupt:  # the terminal has told the child as well
        _stop(child, GRACE_S)
        raise
    finally:
        _stop(child, 0)
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _stop(child: subprocess.Popen[bytes], grace_s: float) -> None:
    if child.poll() is None and grace_s:
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(grace_s)
    if child.poll() is None:
        child.kill()
        child.wait()


def _resident_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    except (OSError, IndexError, ValueError):  # it has just ended, or there is no /proc
        return 0.0


class _Relay:
    """Passes the child's messages on as they come; keeps crash reports of libraries to itself."""

    LIBRARIES = ("terminate called", "  what():", "Fatal Python error", "malloc", "free()")
    TRACEBACK = "Traceback (most recent call last)"
    MOST = 2000  # lines

    def __init__(self, stream: IO[bytes] | None, show: bool = True) -> None:
        self.is_traceback = False
        self._show = show
        self._thread = threading.Thread(target=self._run, args=(stream,))
        self._thread.start()

    def _run(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            return
        with stream:
            for count, line in enumerate(iter(lambda: stream.readline(4096), b"")):
                text = line.decode("utf-8", "replace").rstrip("\r\n")
                self.is_traceback = self.is_traceback or text.startswith(self.TRACEBACK)
                is_noise = self.is_traceback or text.startswith(self.LIBRARIES)
                if self._show and not is_noise and count < self.MOST:
                    shown = "".join(c if c.isprintable() or c == "\t" else "?" for c in text)
                    print(shown, file=sys.stderr, flush=True)

    def join(self) -> None:
        self._thread.join()


def _result(who: str, answer: bytes, status: int) -> Any:
    if len(answer) > MAX_RESULT_BYTES:
        raise InputError(f"{who}: the answer must take {MAX_RESULT_BYTES} bytes at most")
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        raise InputError(f"{who}: {_end(status)}") from None
    if isinstance(found, dict) and found.keys() == {"result"}:
        return found["result"]
    kind = (
        ERRORS.get(str(found.get("error")), InputError) if isinstance(found, dict) else InputError
    )
    text = found.get("text") if isinstance(found, dict) else None
    raise kind(str(text or f"{who}: {_end(status)}"))


def _end(status: int) -> str:
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"the confined process was ended by {name}; the input is damaged or hostile"
    return f"the confined process failed (status {status}); the input is damaged or hostile"


def _partial_files(argv: Sequence[str]) -> set[Path]:
    """Unfinished outputs in the folders that a command line names."""
    folders = {Path(word).parent for word in argv if word and not word.startswith("-")}
    found: set[Path] = set()
    for folder in folders:
        with suppress(OSError, ValueError):
            found |= {path for path in folder.glob(".*.partial*") if path.is_file()}
    return found
