"""The gate of benchmarks/aot.py, in processes of its own: here kernels run in the interpreter."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import aot

ROOT = Path(__file__).parents[2]
COMPILER = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "ACCEL_KERNELS")}
AGAIN = "if this is meant, record it: python -m benchmarks.aot"


def run(*command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=COMPILER, capture_output=True, text=True
    )


def check(archs, tmp_path, *options):
    """Compile for `archs` and compare with the committed report."""
    report = tmp_path / "aot.json"
    arch = ("--arch", *map(str, archs))
    done = run("-m", "benchmarks.aot", *arch, "--json", str(report), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = {(r["kernel"], r["arch"]): r for r in json.loads(aot.REPORT.read_text())["rows"]}
    rows = json.loads(report.read_text())["rows"]
    assert {row["arch"] for row in rows} == set(archs)
    for row in rows:
        known = recorded.get((row["kernel"], row["arch"]))
        who = f"{row['kernel']} on sm_{row['arch']}"
        assert known, f"{who} is not in {aot.REPORT.name}; {AGAIN}"
        # Another compiler version may need a few more; what matters is a jump.
        allowed = known["registers"] * 1.15 + 8
        assert 0 < row["registers"] <= allowed, (
            f"{who} took {known['registers']} registers and takes {row['registers']} now; {AGAIN}"
        )


@pytest.mark.timeout(1800)
def test_every_kernel_is_as_recorded_or_compiles(tmp_path):
    """For all generations; what has the fingerprint of a recorded row is not compiled again."""
    check(list(aot.SHARED_LIMIT_KB), tmp_path, "--changed")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_changed_kernel_is_compiled_again():
    """A fingerprint is of all that decides: source, types, constants, options."""
    done = run(
        "-c",
        "from benchmarks import aot; rows = aot.recorded(aot.REPORT);"
        "same = lambda: {row['kernel'] for row in aot.unchanged(rows)};"
        "before, entry = same(), aot.variants()['similarity'];"
        "assert 'similarity' in before, before;"
        "entry['num_warps'] *= 2; assert same() == before - {'similarity'};"
        "entry['num_warps'] //= 2;"
        "entry['constexprs'] = {'BLOCK': 16}; assert same() == before - {'similarity'};"
        "[row] = aot.compile_all([('similarity', 90)], 1); print(row['fingerprint'])",
    )
    assert re.fullmatch(r"[0-9a-f]{16}\s*", done.stdout), done.stderr


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_every_kernel_compiles_for_every_generation(tmp_path):
    check(list(aot.SHARED_LIMIT_KB), tmp_path)


@pytest.mark.slow
def test_a_kernel_that_no_list_names_is_found():
    done = run(
        "-c",
        "from accel.kernels._raster_triton import AOT; AOT.pop();"
        "from benchmarks.aot import unlisted; print(*unlisted())",
    )
    assert "accel.kernels._raster_triton._draw_kernel" in done.stdout.split(), done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"stack_bytes": 8}, "copy on sm_86 must not spill, got 8 bytes"),
        ({"spills": 3}, "copy on sm_86 must not spill, has 3 local loads"),
        ({"shared_bytes": 99 * 1024}, None),
        ({"needs": ["tensor cores"], "shows": {"tensor cores": 9}}, None),
        ({"needs": ["tensor cores"], "shows": {"tensor cores": 0}}, "must use tensor cores"),
        ({"shared_bytes": 99 * 1024 + 1}, "copy on sm_86 may share 101376 bytes, got 101377"),
    ],
)
def test_faults(change, message):
    row = {"kernel": "copy", "arch": 86, "registers": 9, "stack_bytes": 0, "shared_bytes": 0}
    found = aot.faults([row | change])
    assert len(found) == (message is not None)
    assert not message or message in found[0]


def test_occupancy():
    assert aot.occupancy(80, 4, 32, 0) == 1.0
    assert aot.occupancy(80, 4, 255, 0) == 0.12  # two blocks of 128 threads
    assert aot.occupancy(89, 8, 128, 0) == 0.33
    assert aot.occupancy(90, 4, 32, 100 * 1024) == 0.12  # shared memory decides


@pytest.mark.parametrize(
    ("code", "sign", "count"),
    [
        ("LDG.E.128.CONSTANT R4, desc[UR4][R2.64]", "vector loads", 1),
        ("LDGSTS.E.BYPASS.128 [R9], desc[UR4][R2.64]", "vector loads", 1),
        ("LDG.E.64 R4 ; STG.E.128 [R2], R4", "vector loads", 0),
        ("HMMA.16816.F32 R4, R8, R2, R4", "tensor cores", 1),
        ("HGMMA.64x64x16.F32.BF16 ; UTCHMMA gdesc[UR4]", "tensor cores", 2),
        ("FFMA R4, R8, R2, R4", "tensor cores", 0),
    ],
)
def test_instructions_that_tell(code, sign, count):
    assert len(re.findall(aot.SIGNS[sign], code)) == count


def test_the_report_keeps_to_its_limits():
    """All variants on six architectures in ten minutes on two cores, and no spill."""
    report = json.loads(aot.REPORT.read_text())
    rows = report["rows"]
    assert {row["arch"] for row in rows} == set(aot.SHARED_LIMIT_KB)
    assert {row["kernel"] for row in rows} >= set(aot.variants())
    assert aot.faults(rows) == []
    assert report["compile_s"] / 2 <= 600


def test_needs_the_compiler_not_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(sys, "argv", ["aot"])
    with pytest.raises(SystemExit, match="TRITON_INTERPRET must be unset"):
        aot.main()
