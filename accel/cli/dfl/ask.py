"""Questions, for whoever says --interactive; without it nothing is ever asked."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from accel.core import ConfigError


def add_interactive(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interactive", action="store_true", help="ask for what the options leave open"
    )


def ask(args: argparse.Namespace, name: str, question: str, convert: Callable[[str], Any]) -> None:
    """With --interactive, ask for an option; an empty answer keeps what it is.

    Raises ConfigError for an answer that cannot be used.
    """
    if not args.interactive:
        return
    now = getattr(args, name)
    print(f"{question} [{_shown(now)}]: ", end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline().strip()
    if not answer:
        return
    try:
        setattr(args, name, convert(answer))
    except ValueError as error:
        raise ConfigError(f"{question}: cannot be {answer!r:.40}") from error


def yes(answer: str) -> bool:
    if answer.lower() not in ("y", "yes", "n", "no"):
        raise ValueError(answer)
    return answer.lower().startswith("y")


def _shown(value: Any) -> Any:
    if value is None:
        return "none"
    return value if not isinstance(value, bool) else "yes" if value else "no"
