"""Predictions: floors that were worked out by hand, and no way to take one for a measurement."""

from __future__ import annotations

import json

import pytest

from accel.cli import main
from accel.pipelines.bench.roofline import (
    GPUS,
    LAUNCH_S,
    NETWORKS,
    Cost,
    Gpu,
    attention,
    conv,
    floor,
    geglu_linear,
    predict,
)

SIMPLE = Gpu(name="simple", tflops=1, gbytes=1, texps=1)


@pytest.mark.parametrize(
    ("cost", "seconds", "bound"),
    [
        (Cost(flops=3e12, bytes=1e9, exps=1e12), 3, "arithmetic"),
        (Cost(flops=1e12, bytes=3e9, exps=1e12), 3, "memory"),
        (Cost(flops=1e12, bytes=1e9, exps=3e12), 3, "exponentials"),
        (Cost(flops=1e3, launches=50), 50e-6, "launches"),
    ],
)
def test_the_largest_part_decides(cost, seconds, bound):
    found, why = floor(cost, SIMPLE)
    assert why == bound
    assert found == pytest.approx(seconds, abs=2e-6)


def test_costs_are_what_the_shapes_say():
    assert conv(2, 320, 320, 64).flops == 2 * 2 * 320 * 320 * 9 * 64 * 64
    assert conv(1, 8, 4, 2, 1).bytes == 2 * (4 * 12 + 32)
    assert attention(1, 1, 4096, 4096, 40).flops == 4 * 4096**2 * 48  # read as 32 + 16 columns
    assert attention(1, 2, 8, 4, 64).exps == 64
    assert geglu_linear(10, 4, 8).flops == 2 * 10 * 4 * 16
    both = Cost(flops=1, launches=2) * 3 + Cost(bytes=5)
    assert (both.flops, both.bytes, both.launches) == (3, 5, 7)


@pytest.mark.parametrize(
    ("gpu", "network", "ms"),
    [
        ("h100", ("SD 1.5 step", "512 px, guided"), 2.03),
        ("a100", ("SDXL step", "1024 px, guided"), 43.3),
        ("rtx4090", ("SDXL step", "1024 px, guided"), 81.9),
        ("rtx4090-fp16sum", ("SDXL step", "1024 px, guided"), 40.9),
        ("l4", ("VAE decode", "1024 px"), 86.5),
    ],
)
def test_floors_are_the_known_ones(gpu, network, ms):
    cost = NETWORKS[network]
    seconds = floor(cost, GPUS[gpu])[0] - cost.launches * LAUNCH_S
    assert seconds * 1e3 == pytest.approx(ms, rel=0.01)


@pytest.mark.parametrize("gpu", GPUS)
def test_every_row_says_that_it_is_a_prediction(gpu):
    report = predict(gpu)
    assert report["kind"] == "predicted"
    assert {row["kind"] for row in report["rows"]} == {"predicted"}
    assert all(row["seconds"] > 0 and row["rate"] > 0 for row in report["rows"])
    assert {row["group"] for row in report["rows"]} == {"kernels", "networks", "generate", "swap"}
    assert any("NVENC" in row["case"] for row in report["rows"]) == bool(GPUS[gpu].encode_fps)


def test_the_encoder_is_the_limit_of_a_fast_swap():
    row = next(r for r in predict("rtx4090-fp16sum")["rows"] if "NVENC" in r["case"])
    assert (row["bound"], row["rate"]) == ("encoder", pytest.approx(400))


def test_the_command_prints_predictions_and_measures_nothing(tmp_path, capsys):
    file = tmp_path / "predicted.json"
    assert main(["bench", "--predict", "rtx4090", "--json", str(file)]) == 0
    out = capsys.readouterr().out.splitlines()
    assert all("predicted" in line for line in out)
    assert json.loads(file.read_text())["schema"] == "accel-predict/1"
    for option in ("--compare", "--gate"):
        assert main(["bench", option, str(file), str(file)]) == 2
        assert "must be measured, holds predictions" in capsys.readouterr().err
    assert main(["bench", "kernels", "--predict", "h100"]) == 2
    assert "takes no groups" in capsys.readouterr().err
    assert main(["bench", "--predict", "gtx970"]) == 2
    assert "predict must be one of h100, a100" in capsys.readouterr().err
