"""Memory does not grow with the length of a film."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.video.clips import make_clip

# Not getrusage: its peak counts the process that started this one.
SCRIPT = """
import json, sys
from pathlib import Path
from accel.video.encode import EncodeConfig
from accel.video.read import VideoReader
from accel.video.stages import buffered
from accel.video.write import VideoWriter

source, target = map(Path, sys.argv[1:])
config = EncodeConfig(codec="h264", preset="ultrafast", threads=1)
with VideoReader(source, threads=1) as reader, VideoWriter(target, reader, config) as writer:
    for frame in buffered(reader):
        frame.planes.c0[:8, :8] = 3
        writer.write(frame)
peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
print(json.dumps([writer.frames, int(peak)]))
"""


@pytest.mark.slow
def test_memory_is_flat(tmp_path):
    peaks = []
    for frames in (200, 2000):
        clip = make_clip(
            tmp_path / f"{frames}.mkv",
            stamps=range(frames),
            size=(320, 240),
            audio=("eng",),
            subtitle="subrip",
        )
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(clip), str(tmp_path / f"out_{frames}.mkv")],
            capture_output=True,
            text=True,
            check=True,
        )
        written, peak = json.loads(run.stdout)
        assert written == frames
        peaks.append(peak)
    assert peaks[1] <= 1.05 * peaks[0], f"{peaks} KiB"
