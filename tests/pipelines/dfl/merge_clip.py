"""A small workspace to merge: drawn frames, faces cut from them, a model with random weights."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from accel.faces.align import transform
from accel.faces.autoencoder import Autoencoder, AutoencoderConfig, to_dfl_order
from accel.faces.face_types import FITTED, MEAN_FACE, FaceType, crop_matrix
from accel.faces.faceset import FaceRecord, with_face
from accel.weights.dfl import part_file, write_data, write_weights

WIDTH, HEIGHT, FRAMES, UNIT = 160, 120, 5, 40
WITHOUT_FACE = 3  # number, from 1, of the frame that shows none
OPTIONS = {
    "resolution": 64, "archi": "df-ud", "face_type": "f",
    "ae_dims": 4, "e_dims": 4, "d_dims": 4, "d_mask_dims": 4,
}  # fmt: skip


def landmarks(x: float, y: float, unit: float = UNIT) -> np.ndarray:  # [68, 2]
    """A mean face whose unit square's corner is (x, y)."""
    points = np.zeros((68, 2))
    points[list(FITTED)] = MEAN_FACE
    angle = np.linspace(np.pi, 0, 17)
    points[:17] = np.stack([0.5 + 0.55 * np.cos(angle), 0.25 + 0.85 * np.sin(angle)], 1)
    mouth = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    ring = np.stack([0.5 - 0.24 * np.cos(mouth), 0.78 - 0.08 * np.sin(mouth)], 1)
    for i in range(48, 68):
        if i not in FITTED:
            points[i] = ring[i - 48]
    return points * unit + [x, y]


def place(number: int) -> np.ndarray:
    """Landmarks of the face in frame `number`, from 1; it moves to the right."""
    return landmarks(50 + 3 * number, 35)


def drawn(number: int) -> np.ndarray:  # [H, W, 3] uint8 BGR
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    frame = np.stack([40 + x / 2, 60 + y, 90 + (x + y) / 4], 2)
    if number != WITHOUT_FACE:
        points = place(number)
        hull = cv2.convexHull(points.astype(np.int32))
        cv2.fillConvexPoly(frame, hull, (120, 150, 220))
        for part in (points[36:42], points[42:48], points[48:60]):
            cv2.fillConvexPoly(frame, cv2.convexHull(part.astype(np.int32)), (40, 40, 120))
    noise = np.random.default_rng(number).normal(0, 2, frame.shape)
    return (frame + noise).clip(0, 255).astype(np.uint8)


def make_workspace(root: Path, *, faces: bool = True, kind: FaceType = FaceType.FULL) -> Path:
    folder = root / "data_dst"
    (folder / "aligned").mkdir(parents=True)
    for number in range(1, FRAMES + 1):
        frame = drawn(number)
        cv2.imwrite(str(folder / f"{number:05d}.png"), frame)
        if faces and number != WITHOUT_FACE:
            (folder / "aligned" / f"{number:05d}_0.jpg").write_bytes(aligned(frame, number, kind))
    write_model(root / "model")
    return root


def aligned(frame: np.ndarray, number: int, kind: FaceType) -> bytes:
    points, size = place(number), 96
    matrix = crop_matrix(points, kind, size)
    good, jpeg = cv2.imencode(".jpg", cv2.warpAffine(frame, matrix, (size, size)))
    assert good
    record = FaceRecord(
        kind, transform(matrix, points), source_filename=f"{number:05d}.png",
        source_landmarks=points, matrix=matrix,
    )  # fmt: skip
    return with_face(jpeg.tobytes(), record)


def write_model(folder: Path, name: str = "new", **changes: object) -> Autoencoder:
    """A SAEHD model that paints something; its masks are nearly the same everywhere."""
    folder.mkdir(exist_ok=True)
    options = OPTIONS | changes
    numbers = {k: v for k, v in options.items() if isinstance(v, int)}
    config = AutoencoderConfig(archi="df-ud", face_type=FaceType.FULL, **numbers)
    network = Autoencoder(config, torch.Generator().manual_seed(0))
    for decoder in (network.decoder_src, network.decoder_dst):
        torch.nn.init.constant_(decoder.out_convm.bias, 4.0)  # sure that all is face
    for part, module in network.parts.items():
        write_weights(part_file(folder, name, "SAEHD", part), to_dfl_order(module))
    write_data(folder / f"{name}_SAEHD_data.dat", {"iter": 3, "options": options})
    return network


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


def add_film(root: Path) -> None:
    """The film that the frames are taken to come from, one frame shown late."""
    with av.open(str(root / "data_dst.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 100)
        for number in range(1, FRAMES + 1):
            frame = av.VideoFrame.from_ndarray(drawn(number), format="bgr24")
            frame.pts, frame.time_base = 4 * number + (number > 2), Fraction(1, 100)
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
