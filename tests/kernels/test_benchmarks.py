"""Benchmarks of kernels are run by hand and rarely: here each is only started."""

from __future__ import annotations

import importlib

import pytest

from benchmarks import bench

KERNELS = {n: module for n, module in bench.names().items() if ".kernels." in module}


def run_once(op, cases, *, peers=None, **rest):
    """In place of `bench_kernel`: the first case, each alternative once, the clock left alone."""
    assert len({label for label, _ in cases}) == len(cases)
    args = cases[0][1]
    for implementation in op.implementations:
        if implementation.name != "triton" and not implementation.why_not(*args):
            implementation.run(*args)
    for call in (peers(*args) if peers else {}).values():
        call()


@pytest.mark.parametrize("module", bench.names().values())
def test_has_a_main(module):
    assert callable(importlib.import_module(module).main)


@pytest.mark.slow
@pytest.mark.parametrize("module", KERNELS.values(), ids=KERNELS)
def test_starts(module, monkeypatch):
    benchmark = importlib.import_module(module)
    timed = []

    def kernel(op, *args, **rest):
        timed.append(run_once(op, *args, **rest))
        return {"rows": []}

    def alternatives(calls, **rest):
        timed.append([call() for call in calls.values()])
        return dict.fromkeys(calls, 1.0)

    # A benchmark uses one or the other, and keeps its result.
    monkeypatch.setattr(benchmark, "bench_kernel", kernel, raising=False)
    monkeypatch.setattr(benchmark, "interleaved", alternatives, raising=False)
    monkeypatch.setattr(benchmark, "save", lambda *args: None, raising=False)
    benchmark.main()
    assert timed


def test_an_unknown_name_is_refused(capsys):
    assert bench.main(["no_such"]) == 2
    assert "no benchmark no_such; there are" in capsys.readouterr().out
