"""Importing accel touches no device, file or network, and loads nothing heavy."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys
def refuse(event, args):
    assert not event.startswith("socket."), "a socket was used on import: " + event
sys.addaudithook(refuse)
import accel, accel.core
assert "triton" not in sys.modules and "onnxruntime" not in sys.modules, "heavy import"
assert "cv2" not in sys.modules and "av" not in sys.modules, "heavy import"
import torch
assert not torch.cuda.is_initialized()
print(accel.__version__)
"""


def test_import_is_light():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_public_name_exists():
    import accel

    for name in accel.__all__:
        assert getattr(accel, name) is not None
