"""How good is a swap: likeness, steadiness and seams, in numbers, on real clips.

    python -m benchmarks.pipelines.quality CLIP... --source FACE.png [--swapper mesh]

likeness: identity distance result -> source and target -> source in sampled frames; a frame is good
    when the first is under 0.6 (the same person) and smaller than the second.
jitter: median second difference of the raw landmarks over time, result by target.
flicker: median difference of consecutive frames of the unwrapped face, in which it does not move,
    result by target.
edge: mean slope of luma where the mask fades, result by target; above 1 a seam shows.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from accel.faces import mesh
from accel.faces.face import Face
from accel.faces.find import FaceModels
from accel.faces.swap import Job, Patch, open_swapper
from accel.faces.track import Analyser
from accel.kernels import crop, paste, raster
from accel.kernels.planes import Planes
from accel.pipelines.demo import PORTRAIT, demo_clip
from accel.pipelines.swap_source import load_source
from accel.video.read import open_video
from accel.weights.assets import asset
from benchmarks.harness import Written, conditions, save

SAME = 0.6
FLAT = 96


def measure(clip: Path, source: Path, swapper_name: str = "mesh", every: int = 6) -> Written:
    """Swap the largest face of each frame in memory and return the numbers."""
    models = FaceModels()
    face_in = load_source(source)
    swapper = open_swapper(swapper_name, [[face_in]])
    targets: list[Face] = []
    distances, flats, slopes, spent = [], [], [], []
    results: list[Planes] = []
    frames = 0
    with open_video(clip) as reader:
        stream = ((frame.index, frame.planes.clone()) for frame in reader)
        for index, planes, faces in Analyser(models=models).analyse(stream):
            frames += 1
            if not faces:
                continue
            face, before = faces[0], planes.clone()
            start = time.process_time()
            patch = swapper.swap([Job(planes, face, 0)])[0]
            spent.append(time.process_time() - start)
            paste(planes, patch.crop[None], patch.mask[None], patch.matrix[None])
            flats.append((flat(before, face), flat(planes, face)))
            slopes.append(edge_slopes(before, planes, patch))
            if index % every == 0:
                was, now = (models.recogniser.embed(p, [face])[0] for p in (before, planes))
                distances.append([np.linalg.norm(v - face_in.embedding) for v in (now, was)])
            targets.append(face)
            results.append(planes)
    again = Analyser(iris_every=0).analyse(enumerate(results))
    seen = [faces[0].raw if faces else None for _, _, faces in again]
    to_source, was = np.array(distances).T
    own, new = jitter([face.raw for face in targets]), jitter(seen)
    changes = [np.median([np.abs(b[i] - a[i]).mean() for a, b in pairwise(flats)]) for i in (0, 1)]
    slope = np.array(slopes).mean(axis=0)
    return {
        "frames": frames,
        "frames_swapped": len(results),
        "result_found_again": sum(points is not None for points in seen),
        "sampled": len(distances),
        "result_to_source": spread(to_source),
        "target_to_source": spread(was),
        "good_share": round(float(((to_source < SAME) & (to_source < was)).mean()), 4),
        "jitter_px": [round(own, 3), round(new, 3)],
        "jitter_ratio": round(new / own, 3),
        "flicker_ratio": round(float(changes[1] / changes[0]), 3),
        "edge_ratio": round(float(slope[1] / slope[0]), 3),
        "swap_cpu_ms": round(float(np.median(spent)) * 1e3, 2),
    }


def flat(planes: Planes, face: Face) -> np.ndarray:  # [G, G] luma of the unwrapped inner face
    """Lay the face on the mesh's texture map."""
    x0, y0, x1, y1 = (float(v) for v in face.box)
    scale = FLAT * 1.5 / max(x1 - x0, y1 - y0)
    matrix = torch.tensor([[[scale, 0, -x0 * scale], [0, scale, -y0 * scale]]])
    picture = crop(planes, matrix, int(FLAT * 1.5))
    places = (torch.from_numpy(face.landmarks[None, :, :2]) - torch.tensor([x0, y0])) * scale
    uv = torch.from_numpy(np.concatenate([mesh.UV * FLAT, np.zeros((mesh.POINTS, 1))], axis=1))
    drawn = raster(
        picture, places.float(), uv[None].float(), torch.ones(1, mesh.POINTS),
        torch.from_numpy(np.array(mesh.TRIANGLES)), torch.zeros(1, dtype=torch.int32), FLAT,
    )  # fmt: skip
    inner = slice(FLAT // 4, FLAT - FLAT // 4)
    return drawn[0, :3].mean(dim=0)[inner, inner].numpy()


def edge_slopes(before: Planes, after: Planes, patch: Patch) -> tuple[float, float]:
    """Mean slope of luma in the band where the mask fades: before, after."""
    side = patch.mask.shape[-1]
    band = (patch.mask > 0.05) & (patch.mask < 0.95)
    found = []
    for planes in (before, after):
        luma = crop(planes, patch.matrix[None], side)[0].mean(dim=0)
        slope = torch.hypot(*torch.gradient(luma))
        found.append(float(slope[band].mean()))
    return found[0], found[1]


def jitter(sights: list[np.ndarray | None]) -> float:
    """Median over frames of the mean length of the landmarks' second difference, px."""
    bends = [
        np.linalg.norm((a - 2 * b + c)[:, :2], axis=1).mean()
        for a, b, c in zip(sights, sights[1:], sights[2:])
        if a is not None and b is not None and c is not None
    ]
    return float(np.median(bends))


def spread(values: np.ndarray) -> Written:
    low, middle, high = (round(float(v), 3) for v in np.percentile(values, (5, 50, 95)))
    return {"p5": low, "median": middle, "p95": high}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("clips", type=Path, nargs="*", help="default: the demo's clip")
    parser.add_argument("--source", type=Path, default=asset(PORTRAIT))
    parser.add_argument("--swapper", default="mesh")
    args = parser.parse_args()
    args.clips = args.clips or [demo_clip()]
    torch.set_num_threads(1)
    result = {"conditions": conditions(1), "source": args.source.name, "clips": {}}
    for clip in args.clips:
        result["clips"][clip.name] = numbers = measure(clip, args.source, args.swapper)
        print(clip.name, *(f"  {name}: {value}" for name, value in numbers.items()), sep="\n")
    save("quality", result)


if __name__ == "__main__":
    main()
