"""Write the thumbnails that tests judge `nano` by: 16 x 16, every concept it knows in every style.

python -m training.nano.truth DATA.npz OUT.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from accel.training.diffusion.emoji import STYLES, Emoji, load_data


def main(data: Path, out: Path) -> None:
    pictures = Emoji(load_data(data))
    small = np.round(pictures.truth * 255).astype(np.uint8)  # [concepts, styles, 768]
    np.savez_compressed(
        out,
        thumbnails=small,
        labels=np.array(pictures.labels),
        styles=np.array(STYLES),
        held_out=np.array(sorted(pictures.held_out), np.int32),
    )
    print(f"{small.shape[0]} concepts in {small.shape[1]} styles: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
