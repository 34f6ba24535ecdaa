"""The gate fails for a lead that shrank in every run, and for no other reason."""

from __future__ import annotations

import json

import pytest

from benchmarks import gate
from tests.pipelines.bench.test_bench import report, row


@pytest.fixture
def leads(monkeypatch, tmp_path):
    """Set what is kept, and what the runs will find."""

    def set_up(kept: float, *found: float, instructions: str = "avx9"):
        known = tmp_path / "gate.json"
        known.write_text(json.dumps({"avx9": report(row(peers={"torch": kept}))}))
        monkeypatch.setattr(gate, "FILE", known)
        reports = [report(row(peers={"torch": lead})) for lead in found]
        for each in reports:
            each["conditions"]["instructions"] = instructions
        runs = iter(reports)
        monkeypatch.setattr(gate, "measure", lambda: next(runs))
        return known

    return set_up


def test_a_lead_that_shrank_every_time_fails(leads, monkeypatch, capsys):
    leads(3.0, 1.0, 1.1, 1.2)
    monkeypatch.setattr("sys.argv", ["gate"])
    assert gate.main() == 1
    assert "was 3.00 x torch, is 1.20 x" in capsys.readouterr().out


@pytest.mark.parametrize("found", [(2.9,), (1.0, 2.9), (1.0, 1.0, 2.2)])
def test_one_good_run_is_enough(leads, monkeypatch, found):
    leads(3.0, *found)
    monkeypatch.setattr("sys.argv", ["gate"])
    assert gate.main() == 0


def test_another_kind_of_cpu_is_named_and_passes(leads, monkeypatch, capsys):
    leads(3.0, 0.1, instructions="riscv")
    monkeypatch.setattr("sys.argv", ["gate"])
    assert gate.main() == 0
    assert "riscv" in capsys.readouterr().out


def test_keep_writes_the_median_lead(leads, monkeypatch):
    known = leads(3.0, 5.0, 1.0, 4.0, instructions="riscv")
    monkeypatch.setattr("sys.argv", ["gate", "--keep"])
    assert gate.main() == 0
    kept = json.loads(known.read_text())
    assert kept["riscv"]["rows"][0]["peers"] == {"torch": 4.0}
    assert kept["avx9"]["rows"][0]["peers"] == {"torch": 3.0}
