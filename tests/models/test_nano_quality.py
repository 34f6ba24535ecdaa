"""Does the embedded model draw what it is asked for? Judged by retrieval on small pictures.

A sample counts when its nearest 16 x 16 thumbnail, among all concepts of the set in the style asked
for, is of the concept asked for; a pair counts when most of its seeds do. The whole figures are in
benchmarks/results/nano.json (training/nano/evaluate.py); here a part of the pairs is drawn.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from accel.pipelines.generate.model import load

TRUTH = Path(__file__).parents[1] / "data" / "nano_truth.npz"
SEEDS, PAIRS = 3, 16


@pytest.fixture(scope="module")
def truth():
    with np.load(TRUTH) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def model():
    return load("nano")


def retrieved(model, truth, numbers) -> tuple[float, float]:
    """Shares of pairs whose concept, and whose style, was retrieved for most seeds."""
    styles = truth["styles"].tolist()
    concept_right, style_right = [], []
    for number in numbers:
        concept, style = divmod(int(number), len(styles))
        prompt = f"{truth['labels'][concept]}, {styles[style]} style, white background"
        images = torch.cat(
            [model.sample(prompt, steps=20, cfg=3.0, seed=seed) for seed in range(SEEDS)]
        )
        small = F.avg_pool2d(images.clamp(-1, 1), 4).permute(0, 2, 3, 1).flatten(1).numpy()
        distance = np.abs(truth["thumbnails"] / 255.0 - (small / 2 + 0.5)[:, None, None]).mean(-1)
        concept_right.append(np.mean(distance[:, :, style].argmin(1) == concept) > 0.5)
        style_right.append(np.mean(distance[:, concept].argmin(1) == style) > 0.5)
    return float(np.mean(concept_right)), float(np.mean(style_right))


def spread(numbers, count):
    return [numbers[i * len(numbers) // count] for i in range(count)]


@pytest.mark.slow
def test_pairs_that_were_shown(model, truth):
    hidden = set(truth["held_out"].tolist())
    shown = [i for i in range(truth["thumbnails"][..., 0].size) if i not in hidden]
    concept, style = retrieved(model, truth, spread(shown, PAIRS))
    assert concept >= 0.6
    assert style >= 0.5


@pytest.mark.slow
def test_pairs_that_were_never_shown(model, truth):
    concept, _ = retrieved(model, truth, spread(truth["held_out"].tolist(), PAIRS))
    assert concept >= 0.25


def test_truth_is_what_the_model_was_trained_on(model, truth):

    about = json.loads(model.loaded.metadata["nano"])
    assert about["labels"] == truth["labels"].tolist()
    styles = len(truth["styles"])
    assert sorted(c * styles + s for c, s in about["held_out"]) == truth["held_out"].tolist()
