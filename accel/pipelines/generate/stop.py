"""Stopping in the middle of a network: a step of a large one takes minutes on a CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from accel.core import Cancel
from accel.models.onnx_model import OnnxModel


@contextmanager
def stoppable(networks: Iterable[Any], cancel: Cancel | None) -> Iterator[None]:
    """Meanwhile, let `cancel` stop the networks between two of their layers, by Cancelled.

    Nothing is left half done: what a layer makes is new, and a run that ends keeps nothing.
    """
    if cancel is None:
        yield
        return
    with ExitStack() as after:
        for network in networks:
            if isinstance(network, OnnxModel):
                for session in network.sessions():
                    session.cancel = cancel
                    after.callback(setattr, session, "cancel", None)
            elif isinstance(network, nn.Module):
                for module in network.modules():
                    hook = module.register_forward_pre_hook(lambda *_: cancel.check())
                    after.callback(hook.remove)
        yield
