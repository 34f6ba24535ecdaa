"""A merge as its formulas have it: whole frames, NumPy and OpenCV, one step after another.

Slow and plain on purpose: nothing of the merger's own arithmetic is used. What chance decides is
drawn as the merger draws it, so that both can be compared.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch

from accel.faces.face_types import crop_matrix
from accel.faces.merge_mask import Prediction, hull_mask
from accel.faces.merge_place import Motion, Place
from accel.faces.merge_settings import MergeSettings
from accel.kernels.color_transfer import random_rotation

BACK = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP


def evaluate(
    frame: np.ndarray,  # [H, W, 3] float32 RGB 0..1
    place: Place,
    made: Prediction,
    settings: MergeSettings,
    motion: Motion,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """The merged frame [H, W, 3] and its mask [H, W]."""
    height, width = frame.shape[:2]
    px = made.px
    size = 4 * px if settings.super_resolution else px
    face_mat = crop_matrix(place.landmarks, place.face_type, size)
    mask_mat = crop_matrix(place.landmarks, place.face_type, 4 * px)
    face = made.face
    if settings.super_resolution:
        share = settings.super_resolution / 100
        face = cv2.resize(face, (size, size)) * (1 - share) + made.enhanced * share
    chosen = mask_of(frame, place, made, settings, face_mat, size)
    raw = settings.mode.startswith("raw")
    shaped = enlarged(chosen, 4 * px) if raw else shape(enlarged(chosen, 4 * px), settings, px)
    zoom = 1 + 0.01 * settings.face_scale
    mask = paste(shaped, zoomed(mask_mat, 4 * px, zoom), width, height, cv2.BORDER_CONSTANT)
    mask[mask < 1 / 255] = 0
    if settings.mode == "original":
        return frame, mask
    out_mat = zoomed(face_mat, size, zoom)
    if raw:
        shown = paste(
            np.ones((size, size), np.float32), out_mat, width, height, cv2.BORDER_CONSTANT
        )[..., None]
        return frame * (1 - shown) + paste(face, out_mat, width, height) * shown, mask
    there = crop(frame, face_mat, size)
    area = (enlarged(shaped, size) > 0).astype(np.float32)[..., None]
    if not settings.is_seamless and settings.color != "none":
        face = transfer(face, there, area, settings.color, seed)
    if settings.mode == "hist-match":
        face = match_histograms(face, there, area, settings)
    pasted = paste(face, out_mat, width, height)
    if settings.is_seamless:
        pasted = clone(pasted, frame, mask)
    alpha = mask[..., None]
    merged = frame * (1 - alpha) + pasted * alpha
    rough = frame
    if settings.denoise:
        rough = median(rough, settings.denoise, 100)
    if settings.bicubic:
        less = 1 - settings.bicubic / 101
        small = cv2.resize(
            rough, (int(width * less), int(height * less)), interpolation=cv2.INTER_CUBIC
        )
        rough = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)
    late = settings.is_seamless and settings.color != "none"
    is_blurred = settings.motion_blur and int(motion.length * settings.motion_blur / 100) >= 1
    if (
        late or settings.mode == "seamless-hist-match" or settings.motion_blur
        or settings.sharpness or settings.denoise or settings.bicubic
    ):  # fmt: skip
        again = crop(merged, face_mat, size)
        if late:
            again = transfer(again, there, area, settings.color, seed)
        if settings.mode == "seamless-hist-match":
            again = match_histograms(again, there, np.ones_like(area), settings)
        if is_blurred:
            taps = min(max(int(motion.length * settings.motion_blur / 100) + 1, 2), 50)
            taps *= 2 if settings.super_resolution else 1
            again = cv2.filter2D(again, -1, line(taps, motion.degrees))
        again = blur_or_sharpen(again, settings)
        merged = rough * (1 - alpha) + paste(again, face_mat, width, height) * alpha
    return merged.clip(0, 1), mask


# --- masks --------------------------------------------------------------------------------------


def mask_of(frame, place, made, settings, face_mat, size):
    hull = hull_mask(place.landmarks, *frame.shape[:2], place.expand)
    parts = {
        "full": np.ones((size, size), np.float32),
        "dst": crop(hull, face_mat, size),
        "learned-prd": made.mask,
        "learned-dst": made.mask_dst,
        "XSeg-prd": made.xseg_prd,
        "XSeg-dst": made.xseg_dst,
    }
    if "+" in settings.mask:
        chosen = sum(enlarged(parts[n], size) for n in settings.mask.split("+")).clip(0, 1)
    else:
        chosen = np.prod([enlarged(parts[n], size) for n in settings.mask.split("*")], 0)
    return np.where(chosen < 1 / 255, 0, chosen).astype(np.float32)


def shape(mask, settings, px):
    padded = np.pad(mask, px)
    if settings.erode:
        element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (abs(settings.erode),) * 2)
        padded = (cv2.erode if settings.erode > 0 else cv2.dilate)(padded, element)
    border = px + settings.blur // 2
    inside = np.zeros_like(padded)
    inside[border:-border, border:-border] = 1
    padded = padded * inside
    if settings.blur:
        padded = cv2.GaussianBlur(padded, (settings.blur | 1,) * 2, 0)
    return np.ascontiguousarray(padded[px:-px, px:-px]).clip(0, 1)


# --- there and back -----------------------------------------------------------------------------


def enlarged(mask, size):
    if len(mask) == size:
        return mask
    return cv2.resize(mask, (size, size), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def zoomed(matrix, size, zoom):
    result = matrix * zoom
    result[:, 2] += (1 - zoom) * size / 2
    return result


def crop(picture, matrix, size):
    return cv2.warpAffine(picture, matrix, (size, size), flags=cv2.INTER_CUBIC).clip(0, 1)


def paste(picture, matrix, width, height, border=cv2.BORDER_REPLICATE):
    return cv2.warpAffine(
        picture, matrix, (width, height), flags=BACK, borderMode=border
    ).clip(0, 1)  # fmt: skip


def clone(pasted, frame, mask, variant="dfl"):
    """Poisson cloning as OpenCV has it, but in floating point: it would round to 8 bits."""
    box = clone_box(mask, variant)
    if box is None:
        return pasted
    rows, columns, inside, (down_by, right_by) = box
    moved = np.roll(pasted, (down_by, right_by), (0, 1))
    inside = cv2.erode(np.pad(inside, 3), np.ones((3, 3), np.uint8), iterations=3)[3:-3, 3:-3]
    apart = (moved - frame)[rows, columns].astype(np.float64)
    right = np.diff(apart, axis=1) * inside[:, :-1, None]
    down = np.diff(apart, axis=0) * inside[:-1, :, None]
    field = np.diff(right, axis=1)[1:-1] + np.diff(down, axis=0)[:, 1:-1]
    sines, steps = [], []
    for n in field.shape[:2]:
        at = np.arange(1, n + 1)
        sines.append(np.sin(np.pi / (n + 1) * np.outer(at, at)) * (2 / (n + 1)) ** 0.5)
        steps.append(2 * np.cos(np.pi / (n + 1) * at) - 2)
    result = frame.copy()
    for channel in range(3):
        spectrum = sines[0] @ field[..., channel] @ sines[1] / (steps[0][:, None] + steps[1])
        result[rows, columns][1:-1, 1:-1, channel] += sines[0] @ spectrum @ sines[1]
    return result.clip(0, 1)


def clone_box(mask, variant="dfl"):
    """Rows and columns of what is cloned, which pixels of them, and how far the face moves.

    None for an empty mask. OpenCV takes no mask on the frame's outermost pixels, but the middle
    that it was told counts them; the rectangle that is left lies about it.
    """
    level = next((i / 10 for i in range(1, 10) if (mask > i / 10).any()), None)
    if level is None:
        return None
    binary = (mask > level).astype(np.uint8)
    x, y, width, height = cv2.boundingRect(binary)
    middle = int(x + width / 2), int(y + height / 2)
    if variant == "dfl":
        binary = np.pad(binary[1:-1, 1:-1], 1)
        x, y, width, height = cv2.boundingRect(binary)
    left, top = middle[0] - width // 2, middle[1] - height // 2
    inside = binary[y : y + height, x : x + width]
    return slice(top, top + height), slice(left, left + width), inside, (top - y, left - x)


# --- effects ------------------------------------------------------------------------------------


def median(picture, power, whole):
    while power > 0:
        smooth = cv2.medianBlur(picture, 5)
        share = 1 if power >= whole else power / whole
        picture = picture * np.float32(1 - share) + smooth * np.float32(share)
        power -= 10
    return picture


def blur_or_sharpen(picture, settings):
    amount = settings.sharpness
    if amount < 0:
        return median(picture, -amount, 10)
    if settings.sharpen == "box" and amount:
        kernel = np.zeros((3, 3), np.float32)
        kernel[1, 1] = 1
        kernel = kernel + (kernel - np.ones((3, 3), np.float32) / 9) * amount
        return cv2.filter2D(picture, -1, kernel)
    if settings.sharpen == "gaussian" and amount:
        soft = cv2.GaussianBlur(picture, (3, 3), 0)
        return picture * (1 + 0.5 * amount) - soft * (0.5 * amount)
    return picture


def line(taps, degrees):
    kernel = np.zeros((taps, taps), np.float32)
    kernel[(taps - 1) // 2] = 1
    turn = cv2.getRotationMatrix2D((taps / 2 - 0.5,) * 2, degrees, 1.0)
    kernel = cv2.warpAffine(kernel, turn, (taps, taps))
    return kernel / kernel.sum()


# --- colours ------------------------------------------------------------------------------------


def transfer(face, there, area, mode, seed):
    """As the merger of DeepFaceLab calls them: what lies outside the mask is black, and counts."""
    masked = face * area, there * area
    if mode == "rct":
        return reinhard(face, there, area)
    if mode == "lct":
        return matrix_transfer(face, there, lct_matrix)
    if mode.startswith("mkl"):
        return matrix_transfer(*(masked if mode == "mkl-m" else (face, there)), mkl_matrix)
    if mode.startswith("idt"):
        return idt(*(masked if mode == "idt-m" else (face, there)), seed)
    if mode == "sot-m":
        return sot(*masked, 30, 5.0, torch.Generator().manual_seed(seed)).clip(0, 1)
    return mix(*masked, seed)


def lab(picture):
    return cv2.cvtColor(np.float32(picture), cv2.COLOR_RGB2Lab)


def rgb(picture):
    return cv2.cvtColor(np.float32(picture), cv2.COLOR_Lab2RGB).clip(0, 1)


def reinhard(face, there, area):
    source, wanted = lab(face), lab(there)
    seen = np.where(area < 0.5, 0, source), np.where(area < 0.5, 0, wanted)
    means = [p.reshape(-1, 3).mean(0) for p in seen]
    spreads = [p.reshape(-1, 3).std(0) for p in seen]
    moved = (source - means[0]) * spreads[1] / np.maximum(spreads[0], 1e-6) + means[1]
    return rgb(moved.clip([0, -127, -127], [100, 127, 127]))


def matrix_transfer(face, there, matrix_of):
    a, b = (p.reshape(-1, p.shape[2]).astype(np.float64) for p in (face, there))
    means = a.mean(0), b.mean(0)
    moved = (a - means[0]) @ matrix_of(covariance(a), covariance(b)).T + means[1]
    return moved.reshape(face.shape).astype(np.float32).clip(0, 1)


def covariance(points):
    return np.cov(points.T, bias=True).reshape((points.shape[1],) * 2) + 1e-5 * np.eye(
        points.shape[1]
    )


def power_of(matrix, power):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**power) @ vectors.T


def lct_matrix(source, wanted):
    return power_of(wanted, 0.5) @ power_of(source, -0.5)


def mkl_matrix(source, wanted):
    root, back = power_of(source, 0.5), power_of(source, -0.5)
    return back @ power_of(root @ wanted @ root, 0.5) @ back


def idt(face, there, seed):
    a, b = (p.reshape(-1, 3).T.astype(np.float64) for p in (face, there))
    make = torch.Generator().manual_seed(seed)
    for _ in range(20):
        turn = random_rotation(make).numpy()
        along, wanted, matched = turn @ a, turn @ b, np.empty_like(a)
        for j in range(3):
            ends = min(along[j].min(), wanted[j].min()), max(along[j].max(), wanted[j].max())
            counts, edges = np.histogram(along[j], 256, ends)
            counts_b, _ = np.histogram(wanted[j], 256, ends)
            ranks, ranks_b = counts.cumsum() / a.shape[1], counts_b.cumsum() / b.shape[1]
            matched[j] = np.interp(along[j], edges[1:], np.interp(ranks, ranks_b, edges[1:]))
        a = a + turn.T @ (matched - along) / 20
    return a.T.reshape(face.shape).astype(np.float32).clip(0, 1)


def sot(face, there, directions, color, make):
    ways = torch.randn(10, directions, 3, generator=make)
    ways = (ways / ways.norm(dim=2, keepdim=True)).numpy()
    moved, goal = face.reshape(-1, 3).copy(), there.reshape(-1, 3)
    for step in ways:
        added = np.zeros_like(moved)
        for way in step:
            along = moved @ way
            order = np.argsort(along, kind="stable")
            added[order] += (np.sort(goal @ way) - along[order])[:, None] * way
        moved += added / directions
    difference = moved.reshape(face.shape) - face
    return face + cv2.bilateralFilter(np.float32(difference), 0, color, 16.0)


def mix(face, there, seed):
    source, wanted = lab(face), lab(there)
    light = matrix_transfer(source[..., :1] / 100, wanted[..., :1] / 100, lct_matrix)[..., 0] * 100
    source[..., 0] = wanted[..., 0] = 100 / 255 * 100  # 8-bit Lab calls it 100
    make = torch.Generator().manual_seed(seed)
    moved = lab(sot(rgb(source), rgb(wanted), 5, 5 / 255, make).clip(0, 1))
    moved[..., 0] = light
    return rgb(moved)


def match_histograms(face, there, area, settings):
    white = 1 - area if settings.masked_hist_match else 0 * area
    one, two = ((p + white).clip(0, 1) for p in (face, there))
    out = np.empty_like(one)
    for channel in range(3):
        a, b = one[..., channel].ravel(), two[..., channel].ravel()
        _, index, counts = np.unique(a, return_inverse=True, return_counts=True)
        steps, counts_b = np.unique(b, return_counts=True)
        ranks = settings.hist_match_threshold * counts.cumsum() / a.size
        matched = np.interp(ranks, 255 * counts_b.cumsum() / b.size, steps)[index]
        out[..., channel] = matched.reshape(one.shape[:2])
    return out
