"""accel bench as a reviewer tries it: wrong kernels, other machines, strangers' files."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from accel.cli import main
from accel.core import ConfigError, InputError
from accel.kernels._op import OPS, Implementation
from accel.pipelines.bench import jobs, kernels, measure
from accel.pipelines.bench.compare import slower
from accel.pipelines.bench.measure import difference, interleaved
from accel.pipelines.bench.page import page
from accel.pipelines.bench.run import describe, read_report, score
from benchmarks import gate
from tests.pipelines.bench.test_bench import CEILINGS, CPU, SMALL, report, row


@pytest.mark.parametrize(
    "wrong",
    [
        lambda y: y * math.nan,
        lambda y: torch.where(torch.arange(y.shape[-1]) == 5, math.nan, y),
        lambda y: y[:, :1],
        lambda y: y.T,
        lambda y: y + 1e-3,
    ],
    ids=["all NaN", "one NaN", "one column", "turned", "off by a little"],
)
def test_a_wrong_kernel_is_refused_before_it_is_timed(monkeypatch, wrong):
    op = OPS["geglu"]
    bad = Implementation("wrong", lambda x: wrong(op.reference(x)), lambda *a: "")
    monkeypatch.setattr(op, "implementations", [bad, *op.implementations])
    monkeypatch.setattr(kernels, "interleaved", lambda *a, **k: pytest.fail("it was timed"))
    with pytest.raises(ConfigError, match="geglu 8x64: wrong's error must be at most"):
        kernels.bench_case(op, SMALL, CPU, CEILINGS, rounds=1)


def test_a_difference_is_never_nan():
    one = torch.ones(3)
    assert difference(one * math.nan, one) == math.inf
    assert difference(torch.ones(1), one) == math.inf
    assert difference(torch.ones(0), torch.ones(0)) == 0


def test_a_wrong_network_is_refused_before_it_is_timed(monkeypatch):
    class Off:
        def __init__(self, network):
            self.network, self.ports = network, network.ports

        def run(self, feed):
            return {k: v * 1.01 for k, v in self.network.run(feed).items()}

    real = jobs.load_onnx
    monkeypatch.setattr(
        jobs, "load_onnx", lambda *a, **k: real(*a, **k) if k else Off(real(*a, **k))
    )
    with pytest.raises(ConfigError, match=r"iris_64.*error must be at most"):
        jobs._face_network("iris_64.fp16w.onnx")


@pytest.fixture
def clocked(monkeypatch):
    """Time that only kernels spend: geglu's takes what is asked for, torch's 3 ms."""
    now = [0.0]
    monkeypatch.setattr(
        measure, "time", SimpleNamespace(process_time=lambda: now[0], perf_counter=lambda: now[0])
    )

    def run(ours_ms: float) -> dict:
        op = OPS["geglu"]

        def spend(ms, call):
            def spent(*args):
                now[0] += ms / 1e3
                return call(*args)

            return spent

        fast = Implementation("native", spend(ours_ms, op.reference), lambda *a: "")
        with monkeypatch.context() as patch:
            patch.setattr(op, "implementations", [fast])
            patch.setattr(op, "reference", spend(3.0, op.reference))
            found = kernels.bench_case(op, SMALL, CPU, CEILINGS, rounds=5)
        return report(found.json())

    return run


def test_the_gates_fail_for_a_kernel_half_as_slow_again(clocked, monkeypatch):
    before, slow = clocked(1.0), clocked(1.5)
    assert not slower(before, clocked(1.2))
    (lead,) = slower(before, slow)
    assert lead["before"] == pytest.approx(3.0)
    assert lead["after"] == pytest.approx(2.0)
    for each in (before, slow):
        each["conditions"]["instructions"] = "any"
    known = {"any": before}
    monkeypatch.setattr(gate, "measure", lambda: slow)
    assert gate.check(known) == 1
    monkeypatch.setattr(gate, "measure", lambda: before)
    assert gate.check(known) == 0


def test_a_lead_that_vanished_fails_the_gate(tmp_path, capsys):
    """The native kernel was not taken: what is timed is the peer itself, and has no peer."""
    before, after = report(row()), report(row(peers={}))
    (lead,) = slower(before, after)
    assert lead["after"] is None
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, each in zip(paths, (before, after)):
        path.write_text(json.dumps(each))
    assert main(["bench", "--gate", *map(str, paths)]) == 2
    assert "was 2.00 x torch, is gone" in capsys.readouterr().out


def test_a_case_that_vanished_fails_where_all_are_wanted():
    before, after = report(row(), row(case="b")), report(row())
    assert not slower(before, after)
    (lead,) = slower(before, after, whole=True)
    assert (lead["case"], lead["after"]) == ("b", None)


def test_a_gate_that_looks_at_nothing_is_no_pass():
    with pytest.raises(ConfigError, match="share a lead over a peer"):
        slower(report(row()), report(row(case="another")))
    with pytest.raises(ConfigError, match="share a lead over a peer"):
        slower(report(row(peers={})), report(row(peers={})))


@pytest.mark.parametrize(("threads", "points"), [(16, 800.0), (2, 800.0), (1, 800.0)])
def test_machines_of_any_number_of_cores_are_scored(monkeypatch, tmp_path, threads, points):
    """Whole jobs on 16 cores, or on one, are set against the reference's on both of its two."""
    known = tmp_path / "reference.json"
    known.write_text(json.dumps(report(row(group="swap", name="s", threads=2, rate=1.0))))
    monkeypatch.setattr("accel.pipelines.bench.run.REFERENCE", known)
    assert score([row(group="swap", name="s", threads=threads, rate=8.0)])["all"] == points


def test_all_threads_are_scored_against_all_and_one_against_one(monkeypatch, tmp_path):
    known = tmp_path / "reference.json"
    known.write_text(json.dumps(report(row(rate=1.0), row(threads=2, rate=2.0))))
    monkeypatch.setattr("accel.pipelines.bench.run.REFERENCE", known)
    assert score([row(rate=3.0), row(threads=16, rate=6.0)])["all"] == 300.0
    known.write_text(json.dumps(report(row(rate=1.0))))
    assert score([row(threads=16, rate=6.0)])["all"] is None  # nothing of that kind is known


HOSTILE = {
    "unit": ["GB/s"], "peers": ["torch"], "rate": True, "seconds": -1.0, "threads": False,
    "name": "\x1b[2Jgeglu", "case": "a\nb",
}  # fmt: skip


@pytest.mark.parametrize("field", HOSTILE)
def test_a_strangers_row_is_refused_in_one_line(tmp_path, capsys, field):
    path, good = tmp_path / "bad.json", tmp_path / "good.json"
    path.write_text(json.dumps(report(row() | {field: HOSTILE[field]})))
    good.write_text(json.dumps(report(row())))
    for option in ("--compare", "--gate"):
        assert main(["bench", option, str(good), str(path)]) == 2
        said = capsys.readouterr().err
        assert "rows must be whole" in said
        assert said.count("\n") == 1
        assert "\x1b" not in said


@pytest.mark.parametrize(
    "number", ["NaN", "Infinity", "1" + "0" * 400, "0", '"1"', "null", "1e999"]
)
@pytest.mark.parametrize("where", ["rate", "peers"])
def test_a_strangers_number_is_refused(tmp_path, number, where):
    path = tmp_path / "bad.json"
    whole = json.dumps(report(row(rate=12345.5, peers={"torch": 54321.5})))
    path.write_text(whole.replace("12345.5" if where == "rate" else "54321.5", number))
    with pytest.raises(InputError, match="rows must be whole"):
        read_report(path)


def test_a_cut_off_report_is_refused(tmp_path):
    path = tmp_path / "cut.json"
    whole = json.dumps(report(row()))
    for length in range(0, len(whole), 97):
        path.write_text(whole[:length])
        with pytest.raises(InputError, match=r"cut\.json"):
            read_report(path)


def test_a_comparison_names_both_machines(tmp_path, capsys):
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path, name in zip(paths, ("Old \x1b[31m9000", "New")):
        made = {"device": name, "kind": "cpu", "accel": "0.1.0", "cores": 4}
        path.write_text(json.dumps(report(row()) | {"conditions": made}))
    assert main(["bench", "--compare", *map(str, paths)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "before Old ?[31m9000, cores 4, accel 0.1.0, quick, score 120"
    assert said[1] == "after  New, cores 4, accel 0.1.0, quick, score 120"


@pytest.mark.parametrize("told", [None, [], {"device": ["x"]}, {"device": None, "cores": {}}])
def test_a_machine_that_is_not_described_is_still_named(told):
    assert describe({"conditions": told, "score": told})


def test_a_share_above_the_limit_says_why():
    memory = kernels.Case("geglu", "", lambda t: (t(64, 512),), bytes=12.0 * 64 * 256)
    slow = replace(CEILINGS, gbytes=1e-9, gbytes_all=1e-6)
    for threads, name, share in ((1, "one thread", 1e9), (2, "all threads", 1e6)):
        found = kernels.bench_case(OPS["geglu"], memory, CPU, slow, 1, threads)
        assert found.limit == f"memory copied by {name}"
        assert found.share == pytest.approx(found.rate * share)
        assert "caches" in found.note
        assert "caches" in page(report(found.json()))
    below = kernels.bench_case(OPS["geglu"], memory, CPU, replace(CEILINGS, gbytes=1e9), 1)
    assert below.note == ""


def test_tile_registers_are_the_limit_of_what_runs_on_them():
    tiles = replace(CEILINGS, tiles_one=3000.0, tiles=6000.0)
    conv = kernels._conv(1, 320, 320, 64)
    assert kernels.limit_of(conv, "native", tiles, 1).rate == 1000
    assert kernels.limit_of(conv, "native", tiles, 2).rate == 2000
    assert kernels.limit_of(conv, "reference", tiles, 1).rate == 100
    few = kernels._attention(2, 8, 4096, 77, 40)  # keeps to vectors
    assert kernels.limit_of(few, "native", tiles, 1).rate == 100
    assert kernels.limit_of(conv, "native", CEILINGS, 1).why_above.startswith("Winograd")
    assert kernels.limit_of(conv, "triton", CEILINGS, 0).name == "multiply-adds of the card"


def test_a_call_that_returns_before_its_work_is_timed_with_the_wait(monkeypatch):
    """On a GPU a call of microseconds may leave milliseconds of work behind."""
    left = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: [time.sleep(left.pop())
                                                                  for _ in list(left)])  # fmt: skip
    calls = []

    def call():
        calls.append(1)
        left.append(0.004)

    timed = interleaved({"a": call}, rounds=2, device=torch.device("cuda"), min_s=0.01)
    assert len(calls) < 20
    assert 0.004 <= timed["a"].seconds < 0.1


def test_the_caller_keeps_its_random_numbers():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    jobs._decoder(CPU, 8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.slow
def test_one_core_measures_and_scores():
    """As `taskset -c 0`: one thread, no scaling, no row twice."""
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "import torch, json; torch.set_num_threads(1);"
        "from accel.pipelines.bench.run import run_bench;"
        "print(json.dumps(run_bench(('networks',), device='cpu', quick=True)))"
    )
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system pins no process to a core")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert {r["threads"] for r in found["rows"]} == {1}
    assert found["scaling"] == []
    assert found["score"]["all"] > 0
    assert all(r["error"] is not None for r in found["rows"])
