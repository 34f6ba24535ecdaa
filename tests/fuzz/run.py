"""Fuzz the parsers: `python -m tests.fuzz.run --minutes 60`, or `--only pak ckpt`.

Each target runs in a process of its own, so that a crash of native code is one finding more and not
the end. Inputs whose outcome was not seen before join the corpus. What breaks a target is saved to
tests/fuzz/crashes/<target>/, which `tests/fuzz/test_fuzz.py` replays for ever.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from accel.core import ConfigError
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, Target

CRASHES = Path(__file__).parent / "crashes"
SLOW_S = 5.0  # of processor time, for one input
MEMORY_MB = 1000  # beyond what the process has when it starts
MAX_CORPUS = 2000


class TooSlow(Exception):
    """One input took longer than SLOW_S."""


def outcome(target: Target, data: bytes, folder: Path) -> str:
    """Run a target once; what came of it in words without numbers, raising what it must not."""
    path = folder / f"input{target.suffix}"
    path.write_bytes(data)
    try:
        target.run(data, path)
    except ConfigError as error:
        text = str(error)
        assert "\n" not in text, "an error of more than one line"
        assert text.isprintable(), "an error with control characters"
        assert len(text) <= 1000, "an error without end"
        return re.sub(r"0x[0-9a-f]+|\d+|'[^']*'", "#", text.replace(str(path), ""))[:80]
    return "read"


def check(target: Target, data: bytes, folder: Path) -> tuple[str, str]:
    """The outcome, and the fault as text ("" when there is none)."""

    def stop(*unused: object) -> None:
        raise TooSlow(f"more than {SLOW_S} s")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SLOW_S)
    try:
        return outcome(target, data, folder), ""
    except Exception as error:
        lines = traceback.format_exception(error)
        return type(error).__name__, "".join(lines[-12:])
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def work(target: Target, minutes: float, seed: int) -> dict[str, object]:
    """Fuzz one target in this process until its time is over."""
    os.environ["ACCEL_HOME"] = tempfile.mkdtemp()
    rng = random.Random(seed)
    end = time.monotonic() + 60 * minutes
    found: dict[str, str] = {}
    runs = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = target.seeds(folder)
        seen = {check(target, data, folder)[0] for data in corpus}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        current = CRASHES / target.name / "current"
        current.parent.mkdir(parents=True, exist_ok=True)
        while time.monotonic() < end:
            data = mutate(rng.choice(corpus), corpus, target.words, rng)
            current.write_bytes(data)
            what, fault = check(target, data, folder)
            runs += 1
            now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if not fault and now > peak + MEMORY_MB:
                what, fault = "memory", f"took {now - peak} MB"
            peak = max(peak, now)
            if fault:
                where = re.findall(r'File "[^"]*/(accel/[^"]+)", line (\d+)', fault)
                key = f"{what} {where[-1] if where else ''}"
                if key not in found:
                    found[key] = save(target, data, fault)
            elif what not in seen:
                seen.add(what)
                if len(corpus) < MAX_CORPUS:
                    corpus.append(data)
        current.unlink(missing_ok=True)
    return {"target": target.name, "runs": runs, "outcomes": len(seen), "peak_mb": peak,
            "minutes": minutes, "found": found}  # fmt: skip


def save(target: Target, data: bytes, fault: str) -> str:
    name = hashlib.sha256(data).hexdigest()[:12]
    folder = CRASHES / target.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    print(f"{target.name}: {name}\n{fault}", file=sys.stderr, flush=True)
    return name


def run(names: list[str], minutes: float, seed: int) -> list[dict[str, object]]:
    """Fuzz several targets one after the other, the time divided among them."""
    reports = []
    for name in names:
        share = minutes / len(names)
        report: dict[str, object] = {"target": name, "runs": 0, "minutes": 0.0}
        end = time.monotonic() + share * 60
        while (left := (end - time.monotonic()) / 60) > 0.01:
            command = [sys.executable, "-m", "tests.fuzz.run", "--work", name]
            command += ["--minutes", str(left), "--seed", str(seed)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                report = json.loads(done.stdout.splitlines()[-1])
                break
            current = CRASHES / name / "current"
            if current.exists():
                crashed = f"ended the process with status {done.returncode}"
                report["native"] = save(TARGETS[name], current.read_bytes(), crashed)
            seed += 1
        print(json.dumps(report), flush=True)
        reports.append(report)
    return reports


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="for all targets together")
    parser.add_argument("--only", nargs="*", choices=sorted(TARGETS), help="some targets")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--atheris", metavar="TARGET", help="guided by coverage (pip: atheris)")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        print(json.dumps(work(TARGETS[args.work], args.minutes, args.seed)))
        return 0
    if args.atheris:
        return with_atheris(TARGETS[args.atheris], args.minutes)
    reports = run(args.only or list(TARGETS), args.minutes, args.seed)
    return int(any(report.get("found") or report.get("native") for report in reports))


def with_atheris(target: Target, minutes: float) -> int:
    """Let libFuzzer choose the inputs by the lines of `accel` that they reach."""
    import atheris

    with atheris.instrument_imports(include=["accel.weights", "accel.faces", "accel.text",
                                             "accel.provenance", "accel.video"]):  # fmt: skip
        folder = Path(tempfile.mkdtemp())
        seeds = folder / "corpus"
        seeds.mkdir()
        for index, data in enumerate(target.seeds(folder)):
            (seeds / str(index)).write_bytes(data)
    words = [sys.argv[0], str(seeds), f"-max_total_time={int(minutes * 60)}", "-rss_limit_mb=3000"]
    words += [f"-artifact_prefix={CRASHES / target.name}/", "-timeout=5"]
    (CRASHES / target.name).mkdir(parents=True, exist_ok=True)
    atheris.Setup(words, lambda data: outcome(target, data, folder))
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
