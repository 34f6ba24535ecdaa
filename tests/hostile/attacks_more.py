"""More attack files: films whose frames change, strips of pictures, networks that swell while they
run, names in workspaces, outputs that never open, archives of pictures to train on.

Sources: ISO 14496-12; RIFF (AVI, 'idx1'); the ONNX operators; C2PA 2.4 (sidecars); APPNOTE.TXT.
"""

from __future__ import annotations

import io
import os
import socket
import struct
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.attacks import (
    Words,
    attack,
    bomb,
    boxes,
    film,
    header,
    model,
    png,
    still,
    swap,
)
from tests.hostile.attacks_media import plain_jpeg
from tests.hostile.attacks_settings import aligned, face

# --- films whose frames change --------------------------------------------------------------------


def frames_of(folder: Path, name: str, pictures: list[bytes], **options: object) -> Words:
    """A film whose frames are JPEGs of any kind, whatever its header says."""
    import av

    with av.open(str(folder / name), "w") as file:
        stream = file.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.time_base = Fraction(1, 25)
        for index, data in enumerate(pictures):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts = stream, index, index
            packet.time_base, packet.duration = Fraction(1, 25), 1
            packet.is_keyframe = True
            file.mux(packet)
    return swap(name)


for _name, _sides in {
    "grow": (64, 66, 1000, 64), "are_columns": (64, (2, 3000), (3000, 2)), "are_odd": (64, 63, 1),
    "shrink": (64, 16, 8, 2, 1), "are_huge": (64, (8000, 4400), 64),
}.items():  # fmt: skip
    for _suffix in ("avi", "mov", "mkv"):

        def _build(folder: Path, url: str, sides=_sides, suffix=_suffix) -> Words:
            pictures = []
            for side in sides:
                file = io.BytesIO()
                size = side if isinstance(side, tuple) else (side, side)
                Image.new("RGB", size, (90, 120, 60)).save(file, "JPEG", quality=30)
                pictures.append(file.getvalue())
            return frames_of(folder, f"a.{suffix}", pictures * 3)

        _build.__name__ = f"film_whose_frames_{_name}_{_suffix}"
        attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def film_whose_colours_change(folder: Path, url: str) -> Words:
    kinds = []
    for mode, options in (("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"subsampling": 0})):
        file = io.BytesIO()
        Image.new(mode, (64, 64)).save(file, "JPEG", **options)
        kinds.append(file.getvalue())
    return frames_of(folder, "a.avi", kinds)


@attack(statuses=(0, 2))
def film_of_half_pictures(folder: Path, url: str) -> Words:
    whole = plain_jpeg(64)
    return frames_of(folder, "a.avi", [whole, whole[:300], b"\xff\xd8", b"x", whole, whole[:-2]])


@attack("pixels")
def film_of_8k_squared(folder: Path, url: str) -> Words:
    return frames_of(folder, "a.avi", [plain_jpeg(8192, quality=5)] * 2)


@attack(statuses=(0, 2))
def film_of_a_huge_index(folder: Path, url: str) -> Words:
    path = film(folder, "a.avi", codec="mpeg4")
    entries = struct.pack("<4sIII", b"00dc", 0x10, 4, 10) * 2_000_000
    data = path.read_bytes()
    at = data.index(b"idx1")
    path.write_bytes(data[:at] + b"idx1" + struct.pack("<I", len(entries)) + entries)
    return swap("a.avi")


for _name, _rate in {"fastest": b"F1000000000:1", "slowest": b"F1:1000000000",
                     "none": b"F0:1",
                     "negative": b"F-25:1",
                     "whole": b"F2147483647:2147483647"}.items():  # fmt: skip

    def _build(folder: Path, url: str, rate=_rate) -> Words:
        frame = b"FRAME\n" + bytes(64 * 64 * 3 // 2)
        (folder / "a.y4m").write_bytes(b"YUV4MPEG2 W64 H64 " + rate + b" C420\n" + frame * 3)
        return swap("a.y4m")

    _build.__name__ = f"film_of_the_{_name}_rate"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def film_of_boxes_in_themselves(folder: Path, url: str) -> Words:
    path = film(folder)
    data = path.read_bytes()
    at = data.index(b"moov") - 4
    nested = data[at:]
    for _ in range(6):
        nested = struct.pack(">I4s", len(nested) * 2 + 8, b"moov") + nested * 2
    path.write_bytes(data[:at] + nested)
    return swap("a.mp4")


@attack(statuses=(0, 2))
def film_of_a_size_of_64_bits(folder: Path, url: str) -> Words:
    path = film(folder)
    data = path.read_bytes()
    at = data.index(b"mdat") - 4
    lie = struct.pack(">I4sQ", 1, b"mdat", 2**63 - 1)
    path.write_bytes(data[:at] + lie + data[at + 8 :])
    return swap("a.mp4")


@attack(statuses=(0, 2))
def film_of_chunks_at_one_place(folder: Path, url: str) -> Words:
    """A few bytes that are every frame of a hundred thousand."""
    path = film(folder)
    path_of = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
    data = path.read_bytes()
    count = 100_000
    data = boxes(data, (*path_of, b"stsz"), lambda old: struct.pack(">III", 0, 8, count))
    data = boxes(data, (*path_of, b"stts"), lambda old: struct.pack(">IIII", 0, 1, count, 1))
    data = boxes(data, (*path_of, b"stsc"), lambda old: struct.pack(">IIIII", 0, 1, 1, 1, 1))
    table = struct.pack(">II", 0, count) + struct.pack(">I", 48) * count
    path.write_bytes(boxes(data, (*path_of, b"stco"), lambda old: table))
    return swap("a.mp4")


@attack(statuses=(0, 2))
def sound_of_odd_rate(folder: Path, url: str) -> Words:
    path = film(folder, "a.mov")
    data = path.read_bytes()
    sound = struct.pack(">I4s6xHHHIHHHHI", 36, b"twos", 1, 0, 0, 0, 255, 16, 0, 0, 0xFFFFFFFF)
    table = struct.pack(">II", 0, 1) + sound
    at = data.index(b"trak") - 4
    track = data[at : at + int.from_bytes(data[at : at + 4], "big")].replace(b"vide", b"soun")
    inner = (b"mdia", b"minf", b"stbl", b"stsd")
    track = boxes(track, (b"trak", *inner), lambda old: table)
    path.write_bytes(boxes(data, (b"moov",), lambda old: old + track))
    return swap("a.mov")


# --- strips of pictures ---------------------------------------------------------------------------


def strip_of(width: int, height: int) -> bytes:
    rows = zlib.compress(bytes((1 + 3 * width) * height), 1)
    return png(header(width, height), (b"IDAT", rows), (b"IEND", b""))


for _name, _size in {"row": (1_900_000, 3), "column": (3, 1_900_000), "dot": (1, 1),
                     "line": (30_000, 1), "pair": (2, 2)}.items():  # fmt: skip
    for _way in ("target", "source", "seen", "init", "mask"):

        def _build(folder: Path, url: str, size=_size, way=_way) -> Words:
            (folder / "a.png").write_bytes(strip_of(*size))
            more = ["-o", "out.png", "--steps", "1", "--width", "64", "--height", "64"]
            return {
                "target": ["swap", "a.png", "out.png", "--source", "portrait.png"],
                "source": ["swap", "portrait.png", "out.png", "--source", "a.png"],
                "seen": ["verify", "a.png"],
                "init": ["generate", "a cat", *more, "--init", "a.png"],
                "mask": ["generate", "a cat", *more, "--init", "portrait.png", "--mask", "a.png"],
            }[way]

        _build.__name__ = f"picture_that_is_a_{_name}_{_way}"
        attack(statuses=(0, 2, 3, 4))(_build)


@attack(statuses=(0, 2))
def animation_of_many_small_frames(folder: Path, url: str) -> Words:
    small = zlib.compress(bytes(4))
    frames: list[tuple[bytes, bytes]] = [(b"IDAT", zlib.compress(bytes(4 * 4 + 4)))]
    for index in range(1, 30_000, 2):
        place = struct.pack(">IIIIIHHBB", index, 1, 1, 0, 0, 0, 1, 0, 0)
        frames += [(b"fcTL", place), (b"fdAT", struct.pack(">I", index + 1) + small)]
    first = (b"fcTL", struct.pack(">IIIIIHHBB", 0, 4, 4, 0, 0, 0, 1, 0, 0))
    control = (b"acTL", struct.pack(">II", 15_000, 0))
    return still(folder, "a.png", png(header(4, 4, 8, 0), control, first, *frames, (b"IEND", b"")))


@attack(statuses=(0, 2))
def gif_of_huge_canvas_and_small_frames(folder: Path, url: str) -> Words:
    frame = b"!\xf9\x04\x08\0\0\0\0,\0\0\0\0" + struct.pack("<HH", 1, 1) + b"\0\x02\x02D\x01\0"
    start = b"GIF89a" + struct.pack("<HH", 5900, 5900) + b"\x80\0\0" + bytes(3) + b"\xff\xff\xff"
    (folder / "a.gif").write_bytes(start + frame * 4 + b";")
    return ["swap", "a.gif", "out.gif", "--source", "portrait.png"]


@attack(statuses=(1, 2, 3, 4))
def credential_beside_of_900_megabytes(folder: Path, url: str) -> Words:
    (folder / "a.mkv").write_bytes(film(folder, "a.mkv", codec="ffv1").read_bytes())
    with open(folder / "a.mkv.c2pa", "wb") as file:
        file.truncate(900 << 20)
    return ["verify", "a.mkv"]


@attack(statuses=(2, 3, 4))
def picture_of_900_megabytes(folder: Path, url: str) -> Words:
    data = strip_of(8, 8)
    with open(folder / "a.png", "wb") as file:
        file.write(data)
        file.truncate(900 << 20)
    return ["verify", "a.png"]


@attack("file may have")
def picture_with_a_long_tail(folder: Path, url: str) -> Words:
    with open(folder / "a.png", "wb") as file:
        file.write(strip_of(64, 64))
        file.truncate(900 << 20)
    return ["swap", "a.png", "out.png", "--source", "portrait.png"]


# --- networks that swell while they run -----------------------------------------------------------


def _swelling():
    from onnx import TensorProto, helper, numpy_helper

    node, kind = helper.make_node, TensorProto.FLOAT
    face_shape = (1, 128, 128, 3)

    def graph(nodes, tensors=(), version=17):
        inputs = [helper.make_tensor_value_info("in_face:0", kind, face_shape)]
        names = ("out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0")
        out = [helper.make_tensor_value_info(name, kind, None) for name in names]
        nodes = nodes + [node("Identity", ["output"], [name]) for name in names]
        made = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(tensors).items()]
        body = helper.make_graph(nodes, "g", inputs, out, made)
        opset = [helper.make_opsetid("", version)]
        return helper.make_model(body, opset_imports=opset, ir_version=8)

    weight = np.ones((3, 3, 1, 1), np.float32)
    turned = node("Transpose", ["in_face:0"], ["x"], perm=[0, 3, 1, 2])
    big = np.int64(1 << 40)
    chain = [node("Concat", ["in_face:0"] * 2, ["c0"], axis=0)]
    chain += [node("Concat", [f"c{i}"] * 2, [f"c{i + 1}"], axis=0) for i in range(20)]
    branch = helper.make_graph(
        [node("Expand", ["one", "s"], ["b"])], "b", [],
        [helper.make_tensor_value_info("b", kind, None)],
    )  # fmt: skip
    return {
        "by_padding_of_a_convolution": graph(
            [turned, node("Conv", ["x", "w"], ["output"], pads=[1 << 20] * 4)], {"w": weight}),
        "by_steps_of_a_convolution": graph(
            [turned, node("ConvTranspose", ["x", "w"], ["output"], strides=[4096, 4096])],
            {"w": weight}),
        "by_padding_of_a_pool": graph(
            [turned, node("AveragePool", ["x"], ["output"], kernel_shape=[1 << 20, 1 << 20],
                          pads=[(1 << 20) - 1] * 4)]),
        "by_doubling": graph([*chain, node("Identity", ["c20"], ["output"])]),
        "by_a_window": graph([node("HannWindow", ["n"], ["output"])], {"n": big}),
        "by_a_diagonal": graph([node("ConstantOfShape", ["s"], ["z"]),
                                node("EyeLike", ["z"], ["output"])],
                               {"s": np.array([1 << 16, 1 << 16], np.int64)}),
        "by_draws": graph([node("ReduceSum", ["in_face:0"], ["r"], keepdims=0),
                           node("Reshape", ["r", "t"], ["q"]),
                           node("Multinomial", ["q"], ["m"], sample_size=(1 << 31) - 1),
                           node("Cast", ["m"], ["output"], to=kind)],
                          {"t": np.array([1, 1], np.int64)}),
        "by_blocks": graph([turned, node("SpaceToDepth", ["x"], ["d"], blocksize=1),
                            node("DepthToSpace", ["d"], ["output"], blocksize=1 << 30)]),
        "by_a_recurrent_layer": graph(
            [node("Reshape", ["in_face:0", "t"], ["q"]),
             node("GRU", ["q", "w", "r"], ["output"], hidden_size=1 << 30)],
            {"t": np.array([1, 1, -1], np.int64), "w": np.ones((1, 3, 1), np.float32),
             "r": np.ones((1, 3, 1), np.float32)}),
        "by_an_einsum": graph([node("Flatten", ["in_face:0"], ["f"]),
                               node("Einsum", ["f", "f", "f"], ["output"],
                                    equation="ai,bj,ck->ijk")]),
        "by_a_branch": graph(
            [node("If", ["yes"], ["output"], then_branch=branch, else_branch=branch)],
            {"yes": np.array(True), "one": np.ones((1, 1), np.float32),
             "s": np.array([1 << 17, 1 << 17], np.int64)}),
        "by_words": graph([node("Constant", [], ["output"], value_strings=[b"x"] * 100_000)]),
        "by_a_transform": graph(
            [node("Reshape", ["in_face:0", "t"], ["q"]),
             node("DFT", ["q", "n"], ["output"])],
            {"t": np.array([1, -1, 1], np.int64), "n": big}),
        "by_a_grid": graph([turned, node("GridSample", ["x", "g"], ["output"])],
                           {"g": np.zeros((1, 1, 1, 2), np.float32)}),
    }  # fmt: skip


SWELLING = ("by_padding_of_a_convolution", "by_steps_of_a_convolution", "by_padding_of_a_pool",
            "by_doubling", "by_a_window", "by_a_diagonal", "by_draws", "by_blocks",
            "by_a_recurrent_layer", "by_an_einsum", "by_a_branch", "by_words", "by_a_transform",
            "by_a_grid")  # fmt: skip
for _name in SWELLING:

    def _build(folder: Path, url: str, name=_name) -> Words:
        (folder / "a.dfm").write_bytes(_swelling()[name].SerializeToString())
        words = ["swap", "portrait.png", "out.png", "--source", "portrait.png"]
        return [*words, "--swapper", "a.dfm"]

    _build.__name__ = f"swapper_that_swells_{_name}"
    attack()(_build)


# --- names, outputs, sockets ----------------------------------------------------------------------

ODD_NAMES = ("\x1b[2J\x1b]0;owned\x07.png", "a\nERROR all fine.png", "\u202egnp.png", "-rf.png",
             os.fsdecode(b"\xff\xfe.png"), "$(touch canary).png", "%s%n.png", "{0}.png",
             "con.png", " .png", "..png")  # fmt: skip
for _words in (["frames", "--side", "dst"], ["extract", "--side", "dst"], ["encode"], ["merge"]):

    def _build(folder: Path, url: str, words=_words) -> Words:
        place = folder / "w" / "data_dst"
        (place / "merged").mkdir(parents=True)
        for name in ODD_NAMES:
            Image.new("RGB", (64, 64)).save(place / name, "PNG")
            Image.new("RGB", (64, 64)).save(place / "merged" / name, "PNG")
        return ["dfl", words[0], "w", *words[1:]]

    _build.__name__ = f"workspace_of_odd_names_{_words[0]}"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def film_of_a_broken_name(folder: Path, url: str) -> Words:
    name = os.fsdecode(b"\xff\xfe.mp4")
    os.rename(film(folder), folder / name)
    return ["swap", name, "out.mp4", "--source", "portrait.png", "--json", "-"]


@attack(statuses=(2,))
def socket_as_film(folder: Path, url: str) -> Words:
    with socket.socket(socket.AF_UNIX) as made:
        os.chdir(folder)  # its name may have 100 letters
        made.bind("a.mp4")
    return swap("a.mp4")


@attack(statuses=(2,))
def folder_as_source(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "faces").mkdir()
    return ["swap", "a.mp4", "out.mp4", "--source", "faces"]


@attack(statuses=(2,))
def folder_as_output(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "out.mp4" / "theirs").mkdir(parents=True)
    return ["swap", "a.mp4", "out.mp4", "--source", "portrait.png", "--overwrite"]


for _name, _words in {
    "output": ["swap", "a.mp4", "p.mp4", "--source", "portrait.png", "--overwrite"],
    "report": ["swap", "a.mp4", "out.mp4", "--source", "portrait.png", "--json", "p.mp4"],
    "page": ["verify", "a.mp4", "--report", "p.mp4"],
    "preview": ["swap", "a.mp4", "out.mp4", "--source", "portrait.png", "--preview", "p.mp4"],
    "picture": ["generate", "a", "-o", "p.mp4", "--steps", "1", "--width", "64", "--height", "64"],
}.items():

    def _build(folder: Path, url: str, words=_words) -> Words:
        film(folder)
        os.mkfifo(folder / "p.mp4")
        return words

    _build.__name__ = f"pipe_as_{_name}"
    attack(statuses=(0, 2, 3, 4))(_build)

# --- faces in every order -------------------------------------------------------------------------

for _way in ("motion-blur", "face-yaw", "face-pitch", "face-source-rect-size", "hist", "hue",
             "hist-dissim", "origname", "oneface", "absdiff", "final", "final-fast"):  # fmt: skip

    def _build(folder: Path, url: str, way=_way) -> Words:
        place = aligned(folder)
        odd = ({"landmarks": np.full((68, 2), 1e308)}, {"source_rect": (0, 0, 0, 0)},
               {"source_landmarks": np.full((68, 2), -1e300)},
               {"source_filename": "x" * 50_000}, {"source_filename": "\x1b[2J\n"})  # fmt: skip
        for index, changes in enumerate(odd):
            (place / f"{index:05}.jpg").write_bytes(face(**changes))
        data = face()
        at = data.rindex(b"\xff\xd9")
        (place / "00007.jpg").write_bytes(data[: at - 20])
        return ["dfl", "sort", "w", "--side", "src", "--by", way]

    _build.__name__ = f"odd_faces_by_{_way.replace('-', '_')}"
    attack(statuses=(0, 2))(_build)


@attack(statuses=(0, 2))
def faces_of_64_megapixels(folder: Path, url: str) -> Words:
    from accel.faces.faceset import with_face
    from tests.fuzz.targets import _record

    place = aligned(folder)
    data = with_face(plain_jpeg(8192, quality=20), _record())
    for index in range(4):
        (place / f"{index:05}.jpg").write_bytes(data)
    return ["dfl", "sort", "w", "--side", "src", "--by", "blur"]


@attack(statuses=(0, 2))
def frames_of_64_megapixels(folder: Path, url: str) -> Words:
    place = folder / "w" / "data_src"
    place.mkdir(parents=True)
    data = plain_jpeg(8192, quality=20)
    for index in range(4):
        (place / f"{index:05}.jpg").write_bytes(data)
    return ["dfl", "extract", "w", "--side", "src"]


# --- pictures to train on -------------------------------------------------------------------------


def archive_of(folder: Path, head: bytes, data: bytes) -> Words:
    """An array in an archive of numpy; `data` comes deflated."""
    magic = b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("rgba.npy", magic + data)
        file.writestr("images.npy", magic + data)
    return ["train-diffusion", "vae", "a.npz", "run", "--images", "10"]


for _name, _head in {
    "that_is_endless": b"{'descr':'|u1','fortran_order':False,'shape':(1099511627776,64,64,4)}\n",
    "that_runs": b"{'descr':'|O','fortran_order':False,'shape':(1,)}\n",
    "that_is_python": b"__import__('os').system('touch ../canary')\n",
    "nested": b"(" * 60_000 + b"\n",
    "of_odd_kinds": b"{'descr':[('a','|O')],'fortran_order':1,'shape':(-1,)}\n",
}.items():

    def _build(folder: Path, url: str, head=_head) -> Words:
        return archive_of(folder, head, bytes(1000))

    _build.__name__ = f"npz_{_name}"
    attack()(_build)


@attack()
def npz_bomb(folder: Path, url: str) -> Words:
    head = b"{'descr':'|u1','fortran_order':False,'shape':(%d,64,64,4)}\n" % (1 << 17)
    with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as file:
        magic = b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head
        with file.open("rgba.npy", "w", force_zip64=True) as member:
            member.write(magic)
            for _ in range(1 << 5):
                member.write(bytes(1 << 26))
    return ["train-diffusion", "vae", "a.npz", "run", "--images", "10"]


@attack()
def folder_to_train_on_of_odd_things(folder: Path, url: str) -> Words:
    place = folder / "data"
    place.mkdir()
    (place / "a.png").symlink_to("/dev/zero")
    os.mkfifo(place / "b.png")
    (place / "c.png").write_bytes(strip_of(3, 1_900_000)[:4000])
    (place / "d.png").write_bytes(png(header(8, 8), (b"iTXt", b"a\0\1\0\0\0" + bomb(1 << 29))))
    (place / "a.txt").symlink_to("/dev/zero")
    return ["train-diffusion", "vae", "data", "run", "--images", "10"]


@attack()
def model_of_900_megabytes(folder: Path, url: str) -> Words:
    with open(folder / "a.safetensors", "wb") as file:
        file.write((1 << 20).to_bytes(8, "little") + b'{"a":')
        file.truncate(900 << 20)
    return model("a.safetensors")
