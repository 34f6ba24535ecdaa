"""A pass that is captured once and replayed, on graphs that only record what they are asked for."""

from __future__ import annotations

import pytest
import torch

from accel.core import Cancel, Cancelled
from accel.pipelines.generate import load, passes
from accel.pipelines.generate.graphs import graphs_for
from accel.sampling.samplers import SAMPLERS
from tests.gpu.fake_cuda import fake_cuda

FAST = {"steps": 5, "cfg": 4.0, "output": "latent"}


class Recording:
    """Graphs of the CPU: what is captured is done at each replay, and nothing as it is captured."""

    def __init__(self):
        self.did = []

    def warm(self, work):
        self.did.append("warm")
        work()

    def capture(self, work):
        self.did.append("capture")

        def replay():
            self.did.append("replay")
            work()

        return replay

    def pace(self):
        self.did.append("pace")


@pytest.fixture
def graphs(monkeypatch):
    found = Recording()
    monkeypatch.setattr(passes, "graphs_for", lambda device: found)
    return found


def away(a, b) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_gives_the_usual_picture(nano, graphs, monkeypatch, sampler):
    options = FAST | {"sampler": sampler, "seed": 3}
    got = nano.sample("a red apple", **options)
    assert graphs.did[:4] == ["warm", "pace", "capture", "replay"]
    assert graphs.did.count("warm") == graphs.did.count("capture") == 1
    monkeypatch.setattr(passes, "graphs_for", lambda device: None)
    assert away(got, nano.sample("a red apple", **options)) < 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"cfg": 1.0},
        {"convention": "diffusers"},
        {"hires_scale": 1.5},
        {"token_merging": 0.4},
        {"eta": 0.5, "sampler": "ddim"},
    ],
    ids=lambda o: " ".join(o),
)
def test_other_settings(nano, graphs, monkeypatch, options):
    options = FAST | options
    got = nano.sample("a tree", **options)
    assert "replay" in graphs.did
    monkeypatch.setattr(passes, "graphs_for", lambda device: None)
    assert away(got, nano.sample("a tree", **options)) < 1e-3


def test_later_pictures_only_replay_and_do_not_depend_on_the_first(nano, graphs):
    options = FAST | {"sampler": "euler_a"}
    batch = nano.sample("a tree", count=2, seed=5, **options)
    assert [w for w in graphs.did if w != "pace"] == ["warm", "capture"] + ["replay"] * 9
    alone = nano.sample("a tree", seed=6, **options)
    assert torch.equal(batch[1:], alone)


def test_progress_and_cancel(nano, graphs):
    seen, cancel = [], Cancel()

    def after(step, clean):
        seen.append((step, clean.shape))
        if step == 2:
            cancel.set()

    with pytest.raises(Cancelled):
        nano.sample("a tree", callback=after, cancel=cancel, **FAST)
    assert seen == [(i, (1, 4, 16, 16)) for i in range(3)]


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "a [red:green:0.5] apple"},
        {"prompt": "a AND b"},
        {"negative": "apple, " * 30},
        {"deepcache": 2},
        {"tgate": 0.5},
        {"cfg_rescale": 0.5},
        {"skip_early": 0.5},
        {"pag": 1.0},
        {"init": torch.zeros(3, 64, 64), "mask": torch.ones(64, 64)},
    ],
    ids=lambda o: " ".join(o),
)
def test_what_changes_from_step_to_step_goes_the_usual_way(nano, graphs, options):
    options = FAST | {"steps": 2} | options
    nano.sample(options.pop("prompt", "a tree"), **options)
    assert not graphs.did


def test_no_graphs_on_a_cpu():
    assert graphs_for(torch.device("cpu")) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="a real CUDA device is here")
def test_a_step_copies_nothing_and_does_not_wait(monkeypatch):
    """On a device that counts: what is captured must not ask the host for anything."""
    found = Recording()
    monkeypatch.setattr(passes, "graphs_for", lambda device: found)
    with fake_cuda() as device:
        model, counts = load("nano", device="cuda"), []
        original = Recording.pace
        monkeypatch.setattr(
            Recording, "pace",
            lambda self: (counts.append(device.counts.snapshot()), original(self))[1],
        )  # fmt: skip
        model.sample("a tree", **FAST)
        between = counts[-1].since(counts[-2])
    assert not between.copies
    assert not between.waits
    assert between.launches["triton:_guided_step_kernel"] == 1
