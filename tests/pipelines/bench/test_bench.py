"""accel bench: figures are checked, shares add up, reports are read with care, the gate closes."""

from __future__ import annotations

import json

import pytest
import torch

from accel.cli import main
from accel.core import ConfigError, InputError
from accel.kernels._op import OPS, Implementation
from accel.pipelines.bench import kernels
from accel.pipelines.bench.compare import compare, slower
from accel.pipelines.bench.machine import Ceilings, conditions, measure_ceilings
from accel.pipelines.bench.measure import Row, interleaved, timing
from accel.pipelines.bench.page import page
from accel.pipelines.bench.run import REFERENCE, SCHEMA, read_report, scaling, score

CPU = torch.device("cpu")
CEILINGS = Ceilings(
    device="x", threads=2, gflops_one=100.0, gflops=200.0, gbytes=10.0, transcode_fps=None
)
SMALL = kernels.Case("geglu", "8x64", lambda t: (t(8, 128),), bytes=12.0 * 8 * 64)


def row(**changes) -> dict:
    fields = {
        "group": "kernels", "name": "geglu", "case": "8x64", "device": "cpu", "threads": 1,
        "seconds": 1e-3, "spread": 0.1, "rate": 5.0, "unit": "GB/s", "limit": "memory copied",
        "share": 0.5, "error": 1e-7, "peers": {"torch": 2.0},
    }  # fmt: skip
    return Row(**(fields | changes)).json()


def report(*rows) -> dict:
    return {
        "schema": SCHEMA, "conditions": {"device": "a <b>CPU</b>", "kind": "cpu", "cores": 2},
        "quick": True, "ceilings": CEILINGS.json(), "rows": list(rows),
        "score": {"all": 120.0, "groups": {"kernels": 120.0}}, "seconds": 1.0,
    }  # fmt: skip


def test_a_row_is_checked_timed_and_set_against_its_limit():
    found = kernels.bench_case(OPS["geglu"], SMALL, CPU, CEILINGS, rounds=3)
    assert found.error < 1e-5
    assert found.share == pytest.approx(found.rate / 10)
    assert found.rate == pytest.approx(12 * 8 * 64 / found.seconds / 1e9)
    assert found.device == "cpu"


def test_all_threads_are_set_against_the_limit_of_all():
    work = kernels.Case("geglu", "8x64", lambda t: (t(8, 128),), flops=1e6)
    found = kernels.bench_case(OPS["geglu"], work, CPU, CEILINGS, rounds=3, threads=2)
    assert (found.threads, found.limit) == (2, "multiply-adds of all threads")
    assert found.share == pytest.approx(found.rate / 200)


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    op = OPS["geglu"]
    wrong = Implementation("wrong", lambda x: op.reference(x) * 1.01, lambda *a: "")
    monkeypatch.setattr(op, "implementations", [wrong, *op.implementations])
    with pytest.raises(ConfigError, match="error"):
        kernels.bench_case(op, SMALL, CPU, CEILINGS, rounds=1)


def test_a_cpu_fallback_is_no_gpu_figure():
    with pytest.raises(ConfigError, match="must run a GPU kernel"):
        kernels.refuse_fallback("geglu", "native", torch.device("cuda:0"))
    kernels.refuse_fallback("geglu", "triton", torch.device("cuda:0"))
    kernels.refuse_fallback("geglu", "native", CPU)


def test_ceilings_of_this_machine_are_plausible():
    found = measure_ceilings(CPU, codec=False)
    assert found.gbytes > 0.2
    if found.gflops_one is not None:
        assert found.gflops >= 0.5 * found.gflops_one > 0.5


def test_ceilings_and_conditions_say_what_hardware_it_is():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((REFERENCE.parent / "schema.json").read_text())
    found = measure_ceilings(CPU, codec=False)
    whole = report(row()) | {"conditions": conditions(CPU), "ceilings": found.json()}
    jsonschema.validate(whole, schema)
    rates = list(found.by_instructions.values())
    assert all(rate > 0.1 for rate in rates)
    text = page(whole)
    assert "power n/a" in text
    assert text.count("tile registers") == 2 * (found.tiles is not None)
    assert text.count("multiply-adds, one thread") == len(rates) + (found.gflops_one is not None)


def test_all_threads_are_told_against_one():
    rows = [row(), row(threads=2, seconds=0.5e-3), row(case="b", threads=2)]
    (found,) = scaling(rows)
    assert (found["threads"], found["times"]) == (2, 2.0)
    assert "2.00&times;" in page(report(*rows) | {"scaling": [found]})


def test_timing_is_the_median_and_turns_are_taken():
    assert timing([3.0, 1.0, 2.0, 100.0]).seconds == 2.5
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    interleaved(calls, rounds=3, device=CPU, min_s=0)
    assert "".join(order).endswith("ababab")


def test_score_is_the_geometric_mean_over_the_reference(monkeypatch, tmp_path):
    known = tmp_path / "reference.json"
    rows = [row(), row(case="b", rate=1.0), row(group="swap", name="s", rate=10.0)]
    known.write_text(json.dumps(report(*rows)))
    monkeypatch.setattr("accel.pipelines.bench.run.REFERENCE", known)
    faster = [row(rate=10.0), row(case="b", rate=8.0), row(group="swap", name="s", rate=10.0)]
    assert score(faster) == {"all": 200.0, "groups": {"kernels": 400.0, "swap": 100.0}}
    assert score([row(case="unknown")]) == {"all": None, "groups": {}}


def test_committed_reference_is_a_report():
    assert read_report(REFERENCE)["schema"] == SCHEMA


def test_report_fits_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((REFERENCE.parent / "schema.json").read_text())
    whole = report(row())
    whole["conditions"] |= {"accel": "0", "torch": "2", "date": "2026-01-01"}
    jsonschema.validate(whole, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(whole | {"rows": [row() | {"share": -1}]}, schema)


def test_page_escapes_and_draws():
    text = page(report(row(name="<script>alert(1)</script>")))
    assert "<script" not in text
    assert "a &lt;b&gt;CPU" in text
    assert "<svg" in text
    assert "memory copied" in text


def test_compare_and_gate_through_the_command(tmp_path, capsys):
    before, after, other = (tmp_path / f"{n}.json" for n in ("before", "after", "other"))
    before.write_text(json.dumps(report(row())))
    after.write_text(json.dumps(report(row(rate=10.0, peers={"torch": 1.2}))))
    other.write_text(json.dumps(report(row(case="another"))))
    assert main(["bench", "--compare", str(before), str(after), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["ratio"] == 2.0
    assert main(["bench", "--gate", str(before), str(after)]) == 2
    assert "was 2.00 x torch, is 1.20 x" in capsys.readouterr().out
    assert main(["bench", "--gate", str(before), str(before)]) == 0
    assert main(["bench", "--compare", str(before), str(other)]) == 2
    assert "share a measurement" in capsys.readouterr().err
    assert not slower(report(row()), report(row(peers={"torch": 1.9})))
    assert compare(report(row()), report(row()))[0]["ratio"] == 1.0


@pytest.mark.parametrize(
    "text", ["no json", "[]", '{"schema": "other/1"}', '{"schema": "accel-bench/1", "rows": [{}]}']
)
def test_other_files_are_refused(text, tmp_path, capsys):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(InputError, match="a bench report"):
        read_report(path)
    assert main(["bench", "--gate", str(path), str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_settings_that_cannot_be(capsys):
    assert main(["bench", "everything"]) == 2
    assert "kernels, networks, swap, generate" in capsys.readouterr().err
    assert main(["bench", "kernels", "--device", "cuda:77"]) == 2
    assert main(["bench", "--compare", "a", "b", "--gate", "a", "b"]) == 2
    assert "--compare and --gate do not go together" in capsys.readouterr().err
    for more in (["kernels"], ["--quick"], ["--html", "page.html"]):
        assert main(["bench", *more, "--compare", "a", "b"]) == 2
        assert "measures nothing" in capsys.readouterr().err
    assert main(["bench", "--html", "/absent/page.html"]) == 2
    assert "must lie in a folder that is there" in capsys.readouterr().err
