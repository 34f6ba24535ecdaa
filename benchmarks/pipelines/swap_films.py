"""Many short films: one command for the folder against one command for each film.

Each way runs in turn in fresh processes, everything included that a user waits for: Python's start,
networks, sources, marking. Wall seconds on all cores; the ratio is what to quote.

Run: python -m benchmarks.pipelines.swap_films CLIP... SOURCE [--films 6] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import conditions, save


def swap(*words: str) -> None:
    """`accel swap` with these words, in a process of its own."""
    command = [sys.executable, "-m", "accel", "swap", *words, "--preset", "veryfast"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)


def film_by_film(films: Path, out: Path, source: str) -> None:
    out.mkdir()
    for film in sorted(films.iterdir()):
        swap(str(film), str(out / film.name), "--source", source)


def folder(jobs: int) -> Callable[[Path, Path, str], None]:
    """One command that lets `jobs` films share the cores."""

    def run(films: Path, out: Path, source: str) -> None:
        swap(str(films), str(out), "--source", source, "--jobs", str(jobs))

    return run


WAYS = {
    "a command a film": film_by_film,
    "one command": folder(1),
    "one command, two jobs": folder(2),
}


def measure(clip: Path, source: Path, films: int, rounds: int) -> dict[str, object]:
    """Seconds of each way, in turn, and how many times as fast as a command a film it is."""
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as place:
        given = Path(place, "films")
        given.mkdir()
        for number in range(films):
            shutil.copy(clip, given / f"{number}{clip.suffix}")
        for _ in range(rounds):
            for name, way in WAYS.items():
                out = Path(place, "out")
                start = time.perf_counter()
                way(given, out, str(source))
                seconds[name].append(time.perf_counter() - start)
                if len(list(out.glob(f"*{clip.suffix}"))) != films:
                    raise RuntimeError(f"{name}: {films} films must be made")
                shutil.rmtree(out)
    alone = seconds["a command a film"]
    return {
        "clip": clip.name,
        "films": films,
        "rounds": rounds,
        "median_s": {name: round(statistics.median(times), 2) for name, times in seconds.items()},
        "ratio_to_a_command_a_film": {
            name: round(statistics.median(a / b for a, b in zip(alone, times)), 2)
            for name, times in seconds.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path, nargs="+", help="films, then the source's picture")
    parser.add_argument("--films", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    *clips, source = args.clips
    rows = [measure(clip, source, args.films, args.rounds) for clip in clips]
    for row in rows:
        print(row["clip"], row["median_s"], row["ratio_to_a_command_a_film"])
    about = conditions(os.cpu_count() or 1) | {"clock": "wall"}
    save("swap_films", {"op": "swap_films", "rows": rows, **about})


if __name__ == "__main__":
    main()
