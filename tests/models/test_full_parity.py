"""Networks of full size beside diffusers'; full_parity also writes the committed page."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers", exc_type=ImportError)
pytest.importorskip("transformers", exc_type=ImportError)

from tests.models.full_parity import FAMILIES, LIMIT, compare, page_rows


def test_of_what_a_control_net_adds_the_worst_is_kept():
    rows = [{"result": "control 0", "error": 1e-7}, {"result": "control 1", "error": 3.14159e-6}]
    kept = page_rows([{"result": "picture", "error": 2e-6}, *rows])
    assert [row["result"] for row in kept] == ["picture", "control, worst of 2"]
    assert kept[1]["error"] == 3.1e-6


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("family", FAMILIES)
def test_full_size(tmp_path, family):
    """4 to 19 GB of weights on the disk, and as much memory for the pages of them."""
    for row in compare(family, tmp_path):
        assert row["error"] < LIMIT, row
