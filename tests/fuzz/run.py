"""Fuzz the parsers: `python -m tests.fuzz.run --minutes 60`, or `--only pak ckpt`.

Each target runs in a process of its own, so that a crash of native code is one finding more and not
the end. Inputs whose outcome was not seen before join the corpus; with `--guided` those that reach
new lines of `accel` do (needs atheris: `pip install accel-engine[fuzz]`). What breaks a target is
saved to tests/fuzz/crashes/<target>/, which `tests/fuzz/test_fuzz.py` replays for ever. With
`--record benchmarks/results/fuzz.json` each turn's figures are added to those of that file.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
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
MEMORY_MB = 1000  # for one input, beyond what was ever needed before it
GROWTH_MB = 400  # that stay, of all inputs together, beyond what the seeds left
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


class Session:
    """What became of the inputs that one target was given."""

    def __init__(self, target: Target, folder: Path, scratch: Path) -> None:
        self.target, self._folder, self._current = target, folder, scratch / "current"
        self.found: dict[str, str] = {}
        self.seen: set[str] = set()
        self.runs = 0
        self._peak_mb = self._first_mb = 0

    def begin(self, seeds: list[bytes]) -> None:
        for data in seeds:
            self.try_(data)
        self._peak_mb, self._first_mb = memory_mb("VmHWM"), memory_mb("VmRSS")
        self.runs = 0

    def try_(self, data: bytes) -> bool:
        """Give the target one input; whether its outcome is a new one, and no fault."""
        self._current.write_bytes(data)
        what, fault = check(self.target, data, self._folder)
        self.runs += 1
        if not fault:
            what, fault = self._memory(what)
        if fault:
            where = re.findall(r'File "[^"]*/(accel/[^"]+)", line (\d+)', fault)
            key = f"{what} {where[-1] if where else ''}"
            if key not in self.found:
                self.found[key] = save(self.target, data, fault)
            return False
        is_new = what not in self.seen
        self.seen.add(what)
        return is_new

    def _memory(self, what: str) -> tuple[str, str]:
        """An outcome and no fault, unless this input took much memory, or all of them keep much."""
        peak = memory_mb("VmHWM")
        more, self._peak_mb = peak - self._peak_mb, max(self._peak_mb, peak)
        if more > MEMORY_MB and self._first_mb:
            return f"memory of {more.bit_length()} bits", f"took {more} MB"
        if self._first_mb and self.runs % 100 == 0:
            kept = memory_mb("VmRSS") - self._first_mb
            if kept > GROWTH_MB:
                self._first_mb += kept
                return "memory that stays", f"{kept} MB stayed after {self.runs} inputs"
        return what, ""

    def report(self, minutes: float) -> dict[str, object]:
        self._current.unlink(missing_ok=True)
        return {"target": self.target.name, "runs": self.runs, "outcomes": len(self.seen),
                "peak_mb": self._peak_mb, "minutes": round(minutes, 2),
                "cpu_minutes": round(time.process_time() / 60, 2), "found": self.found}  # fmt: skip


def memory_mb(of: str) -> int:
    """VmRSS, or the peak VmHWM: getrusage's peak is that of the process that started this one."""
    return int(Path("/proc/self/status").read_text().partition(f"{of}:")[2].split()[0]) // 1024


def work(
    target: Target, minutes: float, seed: int, scratch: Path, guided: bool, kept: Path | None
) -> None:
    """Fuzz one target in this process until its time is over, and print its report.

    kept: a folder with what earlier runs found worth keeping, to which this one adds.
    """
    os.environ["ACCEL_HOME"] = str(scratch / "home")
    folder = scratch / "input"
    folder.mkdir()
    session = Session(target, folder, scratch)
    if guided:
        _guided(session, minutes, seed, scratch, kept)  # does not return
    rng = random.Random(seed)
    end = time.monotonic() + 60 * minutes
    earlier = sorted(kept.iterdir())[:MAX_CORPUS] if kept else []
    corpus = [*target.seeds(folder), *(path.read_bytes() for path in earlier)]
    session.begin(corpus)
    while time.monotonic() < end:
        data = mutate(rng.choice(corpus), corpus, target.words, rng, target.structure)
        if session.try_(data) and len(corpus) < MAX_CORPUS:
            corpus.append(data)
            if kept:
                (kept / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    print(json.dumps(session.report(minutes)))


def _guided(session: Session, minutes: float, seed: int, scratch: Path, kept: Path | None) -> None:
    """Let libFuzzer choose the inputs, by the lines of `accel` that they reach."""
    import atheris

    target, folder = session.target, kept or scratch / "corpus"
    folder.mkdir(exist_ok=True)
    with atheris.instrument_imports(include=["accel"]):
        seeds = target.seeds(scratch)
        session.begin(seeds)
    for index, data in enumerate(seeds):
        (folder / str(index)).write_bytes(data)
    end = time.monotonic() + 60 * minutes

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        if rng.random() < 0.3:
            return atheris.Mutate(data, most)
        return mutate(data, seeds, target.words, rng, target.structure)[:most]

    def one(data: bytes) -> None:
        session.try_(data)
        if time.monotonic() > end:
            print(json.dumps(session.report(minutes)), flush=True)
            os._exit(0)  # libFuzzer knows no other end than a fault

    words = [sys.argv[0], str(folder), f"-seed={seed % 2**31}", "-rss_limit_mb=0", "-timeout=600"]
    words += ["-max_len=262144", "-verbosity=0", f"-artifact_prefix={scratch}/"]
    atheris.Setup(words, one, custom_mutator=change, internal_libfuzzer=True)
    atheris.Fuzz()


def save(target: Target, data: bytes, fault: str) -> str:
    name = hashlib.sha256(data).hexdigest()[:12]
    folder = CRASHES / target.name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    print(f"{target.name}: {name}\n{fault}", file=sys.stderr, flush=True)
    return name


def run(
    names: list[str],
    minutes: float,
    seed: int,
    guided: bool,
    corpus: Path | None = None,
    turn: float | None = None,
    record: Path | None = None,
) -> list[dict[str, object]]:
    """Fuzz several targets one after the other, the time divided among them.

    turn: minutes after which the next target follows; each has several turns then.
    """
    rounds = max(1, round(minutes / len(names) / turn)) if turn else 1
    reports = []
    for one in range(rounds):
        for name in names:
            share = minutes / len(names) / rounds
            report = take_turn(name, share, seed + 1000 * one, guided, corpus)
            print(json.dumps(report), flush=True)
            if record:
                add_to(record, report, guided)
            reports.append(report)
    return reports


def take_turn(
    name: str, minutes: float, seed: int, guided: bool, corpus: Path | None
) -> dict[str, object]:
    """Fuzz one target in a process of its own, in a new one where native code ends it."""
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # disks are slow at small files
    report: dict[str, object] = {"target": name, "runs": 0, "minutes": 0.0}
    end = time.monotonic() + minutes * 60
    while (left := (end - time.monotonic()) / 60) > 0.01:
        with tempfile.TemporaryDirectory(dir=memory) as scratch:
            command = [sys.executable, "-m", "tests.fuzz.run", "--work", name, scratch]
            command += ["--minutes", str(left), "--seed", str(seed)]
            command += ["--guided"] * guided
            if corpus:
                (corpus / name).mkdir(parents=True, exist_ok=True)
                command += ["--corpus", str(corpus / name)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode == 0:
                report |= json.loads(done.stdout.splitlines()[-1])
                break
            current = Path(scratch, "current")
            if current.exists():
                crashed = f"ended the process with status {done.returncode}"
                report["native"] = save(TARGETS[name], current.read_bytes(), crashed)
        seed += 1
    return report


def add_to(record: Path, report: dict[str, object], guided: bool) -> None:
    """Add one turn's figures to a file of results: sums, except for the highest of the peaks."""
    from benchmarks.harness import conditions  # loads what a guided run must load by itself

    told = json.loads(record.read_text()) if record.exists() else {"rows": []}
    key = {"target": report["target"], "guided": guided}
    rows = [row for row in told["rows"] if key.items() <= row.items()]
    row = rows[0] if rows else key | {"runs": 0, "minutes": 0, "cpu_minutes": 0, "peak_mb": 0}
    if not rows:
        told["rows"].append(row)
    for name in ("runs", "minutes", "cpu_minutes"):
        row[name] = round(row[name] + report.get(name, 0), 2)
    row["peak_mb"] = max(row["peak_mb"], report.get("peak_mb", 0))
    new = sorted({*report.get("found", {}).values(), *filter(None, [report.get("native")])})
    row["found"] = sorted({*row.get("found", []), *new})
    told |= {name: value for name, value in conditions(1).items() if name != "clock"}
    told["rows"].sort(key=lambda row: (list(TARGETS).index(row["target"]), row["guided"]))
    record.write_text(json.dumps(told, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="for all targets together")
    parser.add_argument("--only", nargs="*", choices=sorted(TARGETS), help="some targets")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--guided", action="store_true", help="by coverage (needs atheris)")
    parser.add_argument("--corpus", type=Path, help="folder that keeps inputs for the next run")
    parser.add_argument("--turn", type=float, help="minutes of a target before the next's turn")
    parser.add_argument("--record", type=Path, help="file of results to add the figures to")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        name, scratch = args.work
        work(TARGETS[name], args.minutes, args.seed, Path(scratch), args.guided, args.corpus)
        return 0
    names = args.only or list(TARGETS)
    reports = run(names, args.minutes, args.seed, args.guided, args.corpus, args.turn, args.record)
    return int(any(report.get("found") or report.get("native") for report in reports))


if __name__ == "__main__":
    sys.exit(main())
