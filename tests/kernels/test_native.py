"""The compiled module and the Python beside it."""

from __future__ import annotations

import pytest

from accel.cli import main
from accel.core import ConfigError
from accel.kernels import _native

pytestmark = pytest.mark.skipif(_native.module is None, reason="the native module is not built")


def test_what_an_older_module_lacks_is_told():
    """After an update that was not built again it would be a bare AttributeError."""
    assert not hasattr(_native.module, "no_such_kernel")
    with pytest.raises(ConfigError, match="must have no_such_kernel, was built from other sources"):
        _native.module.no_such_kernel()


def test_the_command_line_tells_it_in_one_line(monkeypatch, capsys):
    monkeypatch.delattr(_native.module, "conv_isa")
    assert main(["doctor"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("accel: accel._native must have conv_isa")
    assert told.count("\n") == 1
