"""What every command shares: its parser, the report it delivers, progress, cancellation."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from accel.core import Cancel, ConfigError, Progress, write_text

DONE, BAD_INPUT, REFUSED, INTERRUPTED, CUT_OFF = 0, 2, 3, 130, 141
UNREADABLE = 4  # of `accel verify`


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are one line, as all others are, from the command they are about.

    Options are not abbreviated: `--untrusted` is taken off the line before anything is parsed, and
    `--untrust` would run unconfined.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        who = self.prog.partition(" ")[2]  # without the "accel" that the line begins with
        raise ConfigError(f"{who and who + ': '}{message} (`{self.prog} --help` explains)")


def command(commands: Any, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", metavar="FILE", help="write the report as JSON; - for standard output"
    )
    parser.add_argument(
        "--untrusted",
        action="store_true",
        help="the files come from strangers: work in a child process with limits and no network;"
        " more: --untrusted-memory-mb N (4096), --untrusted-seconds S (4 hours)",
    )
    return parser


MOST_DIGITS = 9  # of a limit


def take_untrusted(argv: Sequence[str]) -> tuple[list[str], dict[str, float] | None]:
    """Take `--untrusted` and its numbers off a command line; None when it is not asked for.

    The numbers are named as the fields of `accel.pipelines.untrusted.ChildLimits`.
    """
    rest: list[str] = []
    numbers: dict[str, float] = {}
    is_asked = False
    words = iter(argv)
    for word in words:
        name, _, value = word.partition("=")
        field = {"--untrusted-memory-mb": "memory_mb", "--untrusted-seconds": "seconds"}.get(name)
        if word == "--":
            rest += [word, *words]
        elif field:
            value = value or next(words, "")
            if not value.isdecimal() or len(value) > MOST_DIGITS:
                raise ConfigError(
                    f"{name} must be a whole number of {MOST_DIGITS} digits at most, got"
                    f" {value!r:.60}"
                )
            numbers[field] = int(value)
            is_asked = True
        elif word == "--untrusted":
            is_asked = True
        else:
            rest.append(word)
    return rest, numbers if is_asked else None


def check_target(path: Path, made: Sequence[Path] = ()) -> None:
    """Raise ConfigError, before any work is done, where a report cannot be written.

    made: folders that the work may make, in which the report may lie.
    """
    folder = path.parent
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError(f"{path}: must be a file that can be written")
    if not folder.is_dir() and not any(one in (folder, *folder.parents) for one in made):
        raise ConfigError(f"{path}: must lie in a folder that is there, {folder} is not")


def deliver(report: dict[str, Any], target: str | None, text: str) -> None:
    """Write the JSON report where it was asked for; tell a person the rest in plain words."""
    if target == "-":
        print(json.dumps(report, indent=1))
        return
    if target:
        write_text(Path(target), json.dumps(report, indent=1) + "\n")
    print(printable(text))


def printable(text: str) -> str:
    """Lines fit for a terminal: a name in them may hold what moves its cursor, or half a letter."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


def with_progress(work: Callable[[Any, Cancel], dict[str, Any]]) -> dict[str, Any]:
    """Run `work` with a progress bar on a terminal, none in a pipe; SIGTERM cancels."""
    cancel = Cancel()
    with stopped_by_signals(cancel):
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return work(None, cancel)
        with _Bar() as bar:
            return work(bar.update, cancel)


@contextmanager
def stopped_by_signals(cancel: Cancel) -> Iterator[None]:
    """SIGTERM, and the end of the terminal unless `nohup` hides it, set `cancel`."""
    before = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda *_: cancel.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Bar:
    """A rich progress bar fed by Progress events."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )  # fmt: skip
        from rich.progress import (
            Progress as Display,
        )

        self._display = Display(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:.1f}/s"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._task: Any = None
        self._stage = ""

    def __enter__(self) -> _Bar:
        self._display.start()
        return self

    def __exit__(self, *unused: object) -> None:
        self._display.stop()

    def update(self, event: Progress) -> None:
        if event.stage != self._stage:  # one after the other, as `encode` and `masks`
            if self._task is not None:
                self._display.remove_task(self._task)
            self._task = self._display.add_task(event.stage, total=event.total, rate=0.0)
            self._stage = event.stage
        self._display.update(self._task, completed=event.done, total=event.total, rate=event.rate)
