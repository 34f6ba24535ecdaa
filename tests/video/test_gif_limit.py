"""Films whose pixels take four bytes may have fewer of them."""

from __future__ import annotations

import pytest
from PIL import Image

from accel.core import InputError
from accel.video.read import Limits, open_video

LIMITS = Limits(max_film_pixels=100 * 100)


@pytest.mark.parametrize(("name", "format_"), [("a.gif", "GIF"), ("a.png", "PNG")])
def test_a_gif_may_be_three_eighths_as_large(tmp_path, name, format_):
    for side in (48, 70):
        frames = [Image.new("RGB", (side, side), (at, 0, 0)) for at in (0, 200)]
        frames[0].save(tmp_path / name, format_, save_all=True, append_images=frames[1:])
        if side == 48:
            with open_video(tmp_path / name, limits=LIMITS) as reader:
                assert len(list(reader)) == 2
        else:
            with pytest.raises(InputError, match="3750 pixels"):
                open_video(tmp_path / name, limits=LIMITS)
