"""What a training has learnt: is the merged face nearer to the source than the target's own was?

Distances are those of the embedded identity network (0 to 2; under 0.6 counts as the same person),
from faces of the target film and of the merged one to the mean of the source's faces.

Run: python -m benchmarks.pipelines.trained_face WORKSPACE result.mp4 [--picture PNG]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from accel.faces.find import FaceModels, find_faces
from accel.kernels import gbr_layout, planes_to_rgb, rgb_to_planes
from accel.pipelines.dfl.workspace import open_workspace
from accel.video.read import open_video
from benchmarks.harness import conditions, save

SAMPLES = 60  # frames of each film
SHOWN = 5  # in the picture
HEIGHT_PX = 240


def embeddings(path: Path, models: FaceModels) -> dict[int, np.ndarray]:
    """Of the largest face of up to SAMPLES frames, by frame number; normalised."""
    found = {}
    with open_video(path) as reader:
        step = max(1, (reader.info.frames or SAMPLES) // SAMPLES)
        for frame in reader:
            if frame.index % step:
                continue
            faces = find_faces(frame.planes, models=models)
            if faces and faces[0].identity is not None:
                vector = np.asarray(faces[0].identity, np.float64)
                found[frame.index] = vector / np.linalg.norm(vector)
    return found


def rgb_frames(path: Path, wanted: list[int]) -> list[Image.Image]:
    shown = []
    with open_video(path) as reader:
        for frame in reader:
            if frame.index in wanted:
                rgb = planes_to_rgb(frame.planes, dtype=torch.float32)
                rgb = (rgb * 255).round().clamp(0, 255).byte()
                picture = Image.fromarray(rgb.numpy())
                width = round(picture.width * HEIGHT_PX / picture.height)
                shown.append(picture.resize((width, HEIGHT_PX), Image.Resampling.LANCZOS))
    return shown


def middle(picture: Image.Image, models: FaceModels) -> int:
    """Where across the picture its face is."""
    rgb = torch.from_numpy(np.asarray(picture).copy())
    faces = find_faces(rgb_to_planes(rgb, gbr_layout()), models=models)
    return int(np.asarray(faces[0].landmarks)[:, 0].mean()) if faces else picture.width // 2


def picture(films: list[Path], wanted: list[int], models: FaceModels, to: Path) -> None:
    """Frames of the target above the merged ones, cut to their faces."""
    lines = [rgb_frames(path, wanted) for path in films]
    side = HEIGHT_PX
    sheet = Image.new("RGB", (side * len(wanted), side * len(lines)), "white")
    for column, shown in enumerate(zip(*lines)):
        most = shown[0].width - side
        left = min(max(middle(shown[0], models) - side // 2, 0), most)
        for row, one in enumerate(shown):
            sheet.paste(one.crop((left, 0, left + side, side)), (column * side, row * side))
    sheet.save(to)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", type=Path, nargs="?")
    parser.add_argument("result", type=Path, nargs="?")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--note", default="")
    args = parser.parse_args()
    if args.workspace is None or args.result is None:
        print("trained_face: needs a workspace and its merged film; see --help")
        return
    place, models = open_workspace(args.workspace), FaceModels()
    source = np.mean(list(embeddings(place.need_video("src"), models).values()), 0)
    source /= np.linalg.norm(source)
    films = {
        "target": embeddings(place.need_video("dst"), models),
        "merged": embeddings(args.result, models),
    }
    distances = {
        name: {i: float(np.linalg.norm(v - source)) for i, v in found.items()}
        for name, found in films.items()
    }
    both = sorted(distances["target"].keys() & distances["merged"].keys())
    nearer = [i for i in both if distances["merged"][i] < distances["target"][i]]
    report = {
        "note": args.note,
        "frames": len(both),
        "distance_to_source": {
            name: round(statistics.median(found[i] for i in both), 3)
            for name, found in distances.items()
        },
        "nearer_to_source": round(len(nearer) / len(both), 3),
        "same_person": round(sum(distances["merged"][i] < 0.6 for i in both) / len(both), 3),
    }
    print(json.dumps(report, indent=1))
    save("trained_face", report | conditions(torch.get_num_threads()))
    if args.picture:
        chosen = [both[round(k * (len(both) - 1) / (SHOWN - 1))] for k in range(SHOWN)]
        picture([place.need_video("dst"), args.result], chosen, models, args.picture)


if __name__ == "__main__":
    main()
