"""Exported networks that are kept: taken again, never from somebody else, never damaged."""

from __future__ import annotations

import json
import os
import threading

import pytest
import torch

from accel.core import Cancel, Cancelled, ConfigError
from accel.models.onnx_model import OnnxModel
from accel.pipelines.generate import graph_cache
from accel.pipelines.generate.model import load

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are POSIX's")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    folder = tmp_path / "graphs" / "kept"
    (folder / "unet").mkdir(parents=True)
    for path in (tmp_path / "graphs", folder, folder / "unet"):
        path.chmod(0o700)
    graph = folder / "unet" / "model.onnx"
    graph.write_bytes(b"a graph")
    graph.chmod(0o600)
    known = {"unet/model.onnx": graph_cache.hashes.of_file(graph)}
    (folder / graph_cache.LIST).write_text(json.dumps(known))
    (folder / graph_cache.LIST).chmod(0o600)
    return folder


def test_what_was_left_is_whole(place):
    assert graph_cache.is_whole(place)


@pytest.mark.parametrize("attack", ["changed", "added", "link", "open", "no list", "bad list"])
def test_what_somebody_touched_is_not(place, tmp_path, attack):
    graph = place / "unet" / "model.onnx"
    if attack == "changed":
        graph.write_bytes(b"A graph")
    elif attack == "added":
        (place / "unet" / "more.bin").write_bytes(b"")
    elif attack == "link":
        elsewhere = tmp_path / "elsewhere"
        elsewhere.write_bytes(graph.read_bytes())
        graph.unlink()
        graph.symlink_to(elsewhere)
    elif attack == "open":
        (place / "unet").chmod(0o777)
    elif attack == "no list":
        (place / graph_cache.LIST).unlink()
    else:
        (place / graph_cache.LIST).write_text("[" * 5000)
    assert not graph_cache.is_whole(place)


def test_the_models_used_longest_ago_go(place):
    old = place.with_name("old")
    old.mkdir()
    (old / "x").write_bytes(bytes(1000))
    os.utime(old, (1, 1))
    graph_cache.make_room(place.parent, 900)
    assert place.exists()
    assert not old.exists()


def test_a_key_tells_files_and_types_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "home"))
    a, b = tmp_path / "a", tmp_path / "b"
    a.write_bytes(b"1")
    b.mkdir()
    (b / "x").write_bytes(b"1")
    keys = {
        graph_cache.key_of(sources, dtype)
        for sources in ([a], [b], [a, b])
        for dtype in (torch.float32, torch.float16)
    }
    assert len(keys) == 6


def test_a_limit_that_is_no_number(monkeypatch):
    monkeypatch.setenv("ACCEL_GRAPHS_MB", "many")
    with pytest.raises(ConfigError, match="ACCEL_GRAPHS_MB must be a whole number"):
        graph_cache.most_bytes()


@pytest.mark.slow
def test_nano_is_exported_once_and_gives_the_same_picture(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path))
    first = load("nano", runtime="onnx").sample("a red apple", steps=2, seed=1)
    monkeypatch.setattr(graph_cache, "export_model", None)  # is not called again
    again = load("nano", runtime="onnx")
    assert isinstance(again.loaded.model, OnnxModel)
    assert torch.equal(again.sample("a red apple", steps=2, seed=1), first)

    cancel = Cancel()  # a step of an exported network stops too
    threading.Timer(0.2, cancel.set).start()
    with pytest.raises(Cancelled):
        again.sample("a red apple", steps=50, seed=1, width=1024, height=1024, cancel=cancel)
    assert torch.equal(again.sample("a red apple", steps=2, seed=1), first)


def test_a_run_stops_within_a_step(tmp_path):
    model, cancel = load("nano"), Cancel()
    first = model.sample("a red apple", steps=2, seed=1)
    calls = []

    def count(*unused):
        calls.append(1)
        if len(calls) == 40:
            cancel.set()

    hooks = [m.register_forward_pre_hook(count) for m in model.loaded.model.unet.modules()]
    with pytest.raises(Cancelled):
        model.sample("a red apple", steps=2, seed=1, cancel=cancel)
    for hook in hooks:
        hook.remove()
    assert len(calls) <= 41  # of some hundreds in a step
    assert torch.equal(model.sample("a red apple", steps=2, seed=1), first)
    assert not any(m._forward_pre_hooks for m in model.loaded.model.modules())
