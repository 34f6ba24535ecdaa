"""Run benchmarks: `python benchmarks/bench.py [NAME ...]`, all of them when none is named.

Each file under benchmarks/kernels and benchmarks/pipelines with a `main()` is one benchmark;
results are written to benchmarks/results/.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))


def names() -> dict[str, str]:
    """Every benchmark: short name -> module."""
    found = {}
    for folder in ("kernels", "pipelines"):
        for path in sorted((HERE / folder).glob("[!_]*.py")):
            found[path.stem if path.stem not in found else f"{folder}.{path.stem}"] = (
                f"benchmarks.{folder}.{path.stem}"
            )
    return found


def main(wanted: list[str]) -> int:
    known = names()
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"bench: no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
        return 2
    for name in wanted or known:
        print(f"\n== {name}", flush=True)
        sys.argv = [name]  # benchmarks that take arguments of their own run with their defaults
        importlib.import_module(known[name]).main()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
