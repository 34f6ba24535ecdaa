"""What every package leans on."""

from __future__ import annotations

import gc

import pytest

from accel.core import Cancel, Cancelled, ConfigError, choose_device, light_collector


def test_the_collector_is_left_as_it_was_found():
    with light_collector():
        assert gc.get_freeze_count() > 1000
        with light_collector():  # a second engine in the same process
            pass
        assert gc.get_freeze_count() > 1000
    assert gc.get_freeze_count() == 0
    with pytest.raises(RuntimeError), light_collector():
        raise RuntimeError
    assert gc.get_freeze_count() == 0


def test_rubbish_made_inside_is_collected():
    class Node:
        pass

    with light_collector():
        node = Node()
        node.itself = node
        del node
        assert gc.collect() > 0


def test_cancel_is_seen():
    cancel = Cancel()
    cancel.check()
    cancel.set()
    with pytest.raises(Cancelled):
        cancel.check()


@pytest.mark.parametrize("name", ["tpu", "cpu:1", "cuda:x", "", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ConfigError, match="device"):
        choose_device(name)


def test_auto_is_a_device():
    assert choose_device("auto").type in ("cpu", "cuda")
