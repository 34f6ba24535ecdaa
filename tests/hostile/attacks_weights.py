"""More attack files: checkpoints, tensors, networks and embeddings, in every place that reads them.

Sources: pickletools for the opcodes; torch's own list of unsafe globals (CVE-2025-32434 and the
reports on picklescan); APPNOTE.TXT for zip; the ONNX operator documents.
"""

from __future__ import annotations

import base64
import json
import pickle
import struct
import zipfile
import zlib
from pathlib import Path

from PIL import Image, PngImagePlugin

from tests.hostile.attacks import (
    Command,
    Words,
    archive,
    attack,
    bomb,
    entry,
    film,
    header,
    model,
    png,
    swap,
    tensors,
)


def storage(kind: str = "FloatStorage", key: str = "0", count: bytes = b"K\x04") -> bytes:
    return (
        b"(X\x07\0\0\0storagectorch\n" + kind.encode() + b"\nX" + struct.pack("<I", len(key))
        + key.encode() + b"X\x03\0\0\0cpu" + count + b"tQ"
    )  # fmt: skip


def tensor(
    size: bytes = b"(K\x04t", stride: bytes = b"(K\x01t", offset: bytes = b"K\0", **how
) -> bytes:
    rebuilt = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return (
        rebuilt + storage(**how) + offset + size + stride + b"\x89ccollections\nOrderedDict\n)RtR"
    )


def program(value: bytes) -> bytes:
    return b"\x80\x02}X\x01\0\0\0w" + value + b"s."


def checkpoint(folder: Path, value: bytes, data: bytes = bytes(16)) -> Words:
    return archive(folder, program(value), ("archive/data/0", data))


LARGE = b"\x8a\x09" + (2**63).to_bytes(9, "little")  # LONG1

for _name, _value in {
    "of_huge_storage": tensor(count=LARGE),
    "of_negative_storage": tensor(count=b"J\xff\xff\xff\xff"),
    "of_huge_size": tensor(size=b"(" + LARGE + b"t"),
    "of_negative_size": tensor(size=b"(J\xff\xff\xff\xfft"),
    "of_huge_stride": tensor(stride=b"(" + LARGE + b"t"),
    "of_no_stride": tensor(size=b"(J\xff\xff\xff\x7ft", stride=b"(K\0t"),
    "of_negative_offset": tensor(offset=b"J\xff\xff\xff\xff"),
    "of_huge_offset": tensor(offset=LARGE),
    "of_unlike_strides": tensor(size=b"(K\x02K\x02t"),
    "of_words_for_sizes": tensor(size=b"(X\x01\0\0\0at"),
    "of_unknown_storage": tensor(kind="EvilStorage"),
    "of_a_member_that_is_missing": tensor(key="9"),
    "of_a_member_elsewhere": tensor(key="/etc/passwd"),
    "through_load_from_bytes": b"ctorch.storage\n_load_from_bytes\nC\x01xR",
    "through_reconstructor": b"ccopyreg\n_reconstructor\n(cos\nsystem\nc__builtin__\nobject\nNtR",
    "through_apply": b"c__builtin__\napply\n(cos\nsystem\n(X\x02\0\0\0idtltR",
    "through_partial": b"cfunctools\npartial\n(cos\nsystem\nX\x02\0\0\0idtR",
    "through_import": b"c__builtin__\n__import__\nX\x02\0\0\0os\x85R",
    "through_codecs": b"c_codecs\nencode\n(X\x01\0\0\0xX\x03\0\0\0zipt R",
    "through_bytearray": b"c__builtin__\nbytearray\n" + LARGE + b"\x85R",
    "through_timeit": b"ctimeit\ntimeit\nX\x0f\0\0\0__import__('os')\x85R",
    "through_numpy_testing": b"cnumpy.testing._private.utils\nrunstring\n(X\x01\0\0\0x}tR",
    "through_torch_compile": b"ctorch._inductor.codecache\ncompile_file\n(X\x01\0\0\0xtR",
    "through_nested_names": b"\x8c\x05torch\x8c\x0e_utils.os.path\x93)R",
    "through_state": b"ctorch\nTensor\n)\x81}X\x0c\0\0\0__setstate__cos\nsystem\nsb",
    "through_slots": b"ccollections\nOrderedDict\n)R(N}X\x09\0\0\0__class__cos\nsystem\nstb",
    "of_a_long_number": b"\x8b\xff\xff\xff\x7f" + bytes(64),
    "of_an_endless_text": b"\x8d" + b"\xff" * 8,
    "of_a_far_memo": b"Nr\xff\xff\xff\xff",
    "of_an_endless_frame": b"\x95" + b"\xff" * 8 + b"N",
    "of_nothing_on_the_stack": b"00000",
    "of_a_persistent_name": b"P/etc/passwd\n",
    "of_a_persistent_number": b"K\x01Q",
    "of_itself": b"(lq\0h\0ah\0a",
    "of_nested_tuples": b")" + b"\x85" * 100_000,
    "of_unhashable_keys": b"}(]Nu",
    "of_old_classes": b"(X\x02\0\0\0idios\nsystem\n",
    "of_an_extension": b"\x82\x01",
    "of_a_buffer": b"\x97",
    "of_text_that_is_none": b"X\x02\0\0\0\xff\xfe",
    "of_number_words": b"I999999999999999999999999\nF1e999\n\x86",
}.items():

    def _build(folder: Path, url: str, value=_value) -> Words:
        return checkpoint(folder, value)

    _build.__name__ = f"checkpoint_{_name}"
    attack(statuses=(2,))(_build)


@attack()
def checkpoint_of_magic(folder: Path, url: str) -> Words:
    """torch's format of before 1.6: four pickles, then the numbers."""
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
    (folder / "a.pt").write_bytes(magic + pickle.dumps(1001, 2) + pickle.dumps(Command(), 2) * 2)
    return model("a.pt")


@attack()
def checkpoint_that_is_a_tar(folder: Path, url: str) -> Words:
    import tarfile

    with tarfile.open(folder / "a.pth", "w") as file:
        info = tarfile.TarInfo("../canary")
        file.addfile(info)
    return model("a.pth")


@attack()
def checkpoint_of_one_place(folder: Path, url: str) -> Words:
    """Members that share their bytes, as in zip bombs that need no nesting."""
    archive(folder, pickle.dumps({}), ("archive/data/0", bytes(1 << 20)))
    data = (folder / "a.ckpt").read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    table = data[start:end] * 2000
    tail = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 4000, 4000, len(table), start, 0)
    (folder / "a.ckpt").write_bytes(data[:start] + table + tail)
    return model("a.ckpt")


@attack()
def checkpoint_of_zip64_lies(folder: Path, url: str) -> Words:
    extra = struct.pack("<HHQQQ", 1, 24, 2**62, 2**62, 0)
    name = b"archive/data.pkl"
    local = struct.pack("<4sHHHHHIIIHH", b"PK\x03\x04", 45, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF,
                        len(name), len(extra)) + name + extra  # fmt: skip
    central = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\x01\x02", 45, 45, 0, 0, 0, 0, 0, 0xFFFFFFFF,
                          0xFFFFFFFF, len(name), len(extra), 0, 0, 0, 0, 0xFFFFFFFF)  # fmt: skip
    central += name + extra
    end = struct.pack("<4s4xHHIIH", b"PK\x05\x06", 1, 1, len(central), len(local), 0)
    (folder / "a.ckpt").write_bytes(local + central + end)
    return model("a.ckpt")


@attack()
def checkpoint_that_is_encrypted(folder: Path, url: str) -> Words:
    archive(folder, pickle.dumps({}))
    data = bytearray((folder / "a.ckpt").read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    (folder / "a.ckpt").write_bytes(data)
    return model("a.ckpt")


@attack()
def checkpoint_of_the_other_order(folder: Path, url: str) -> Words:
    return archive(folder, program(tensor()), ("archive/data/0", bytes(16)),
                   ("archive/byteorder", b"big"))  # fmt: skip


@attack()
def torchscript_archive(folder: Path, url: str) -> Words:
    with zipfile.ZipFile(folder / "a.pt", "w") as file:
        file.writestr("a/data.pkl", pickle.dumps(Command()))
        file.writestr("a/code/__torch__.py", "import os")
        file.writestr("a/constants.pkl", pickle.dumps(Command()))
    return model("a.pt")


for _name, _header in {
    "of_null": b"null",
    "of_a_list": b"[]",
    "of_spaces": b" " * 4096 + b"{}",
    "of_zero_bytes": bytes(4096),
    "with_words_for_metadata": {"__metadata__": "x"},
    "with_numbers_in_metadata": {"__metadata__": {"a": 1}},
    "with_metadata_nested": b'{"__metadata__":' * 5000,
    "of_unknown_type": {"a": entry([1], 0, 4, "EVIL")},
    "of_true_sizes": {"a": entry([True], 0, 4)},  # type: ignore[list-item]
    "of_infinite_sizes": b'{"a":{"dtype":"F32","shape":[1e400],"data_offsets":[0,4]}}',
    "of_sizes_of_words": b'{"a":{"dtype":"F32","shape":"4","data_offsets":[0,4]}}',
    "of_reversed_places": {"a": entry([1], 4, 0)},
    "of_nothing_times_all": {"a": entry([0, 2**62, 2**62], 0, 0)},
    "of_three_places": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,2,4]}}',
    "of_thousands_of_sizes": {"a": entry([1] * 100_000, 0, 4)},
    "of_half_characters": b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    "of_a_number_of_megabytes": b'{"a":{"dtype":"F32","shape":[' + b"9" * 2_000_000 + b"]}}",
    "with_more_keys": b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":[[]]}}',
    "of_no_bytes_each": {f"t{i}": entry([0], 0, 0) for i in range(199_000)},
}.items():

    def _build(folder: Path, url: str, header=_header) -> Words:
        return tensors(folder, header, bytes(4))

    _build.__name__ = f"tensors_{_name}"
    attack(statuses=(2,))(_build)


@attack()
def nano_without_its_words(folder: Path, url: str) -> Words:
    return tensors(folder, {"__metadata__": {"family": "nano", "nano": "[" * 60_000},
                            "a": entry([1], 0, 4)}, bytes(4))  # fmt: skip


def nano_with(folder: Path, about: str) -> Words:
    """The embedded model with other words about itself."""
    from accel.weights.assets import asset

    data = asset("nano.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    told = json.loads(data[8 : 8 + length])
    told["__metadata__"]["nano"] = about
    return tensors(folder, told, data[8 + length :])


@attack()
def nano_with_nested_words(folder: Path, url: str) -> Words:
    return nano_with(folder, "[" * 60_000)


@attack()
def nano_with_wrong_words(folder: Path, url: str) -> Words:
    return nano_with(folder, '{"kept_tokens": [1e300, -5, "x"], "hashed_rows": {}}')


@attack()
def nano_with_endless_rows(folder: Path, url: str) -> Words:
    return nano_with(folder, '{"kept_tokens": [], "hashed_rows": 9223372036854775807}')


def other(folder: Path, option: str, name: str, content: bytes) -> Words:
    (folder / name).write_bytes(content)
    return ["generate", "a cat", "-o", "out.png", "--steps", "1", option, name]


for _option in ("--lora", "--vae", "--decoder", "--tiny-vae", "--control"):
    for _suffix in ("safetensors", "ckpt"):

        def _build(folder: Path, url: str, option=_option, suffix=_suffix) -> Words:
            run = pickle.dumps(Command())
            content = struct.pack("<Q", len(run)) + run if suffix == "safetensors" else run
            words = other(folder, option, f"a.{suffix}", content)
            if option == "--control":
                Image.new("RGB", (64, 64)).save(folder / "c.png")
                words += ["--control-image", "c.png"]
            return words + (["--preview", "p.png"] if option == "--tiny-vae" else [])

        _build.__name__ = f"{_option.strip('-').replace('-', '_')}_that_runs_{_suffix}"
        attack(statuses=(2,))(_build)


@attack()
def model_that_is_gguf(folder: Path, url: str) -> Words:
    head = b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62)
    (folder / "a.gguf").write_bytes(head + bytes(100))
    return model("a.gguf")


@attack()
def lora_of_huge_rank(folder: Path, url: str) -> Words:
    """A product of two thin matrices that is no thin one."""
    n = 2_000_000
    names = ("lora_unet_a.lora_up.weight", "lora_unet_a.lora_down.weight")
    told = {names[0]: entry([n, 1], 0, 4 * n), names[1]: entry([1, n], 4 * n, 8 * n)}
    words = tensors(folder, told, bytes(8 * n))
    return ["generate", "a cat", "-o", "out.png", "--steps", "1", "--lora", words[5]]


def folder_model(folder: Path, **files: object) -> Words:
    place = folder / "m"
    for name, content in files.items():
        path = place / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return model("m")


@attack()
def model_folder_of_nothing(folder: Path, url: str) -> Words:
    return folder_model(folder, **{"model_index_json": {}})


@attack()
def model_folder_nested(folder: Path, url: str) -> Words:
    deep = b"[" * 100_000
    names = ("model_index_json", "scheduler__scheduler_config_json", "unet__config_json")
    return folder_model(folder, **dict.fromkeys(names, deep))


@attack()
def model_folder_that_runs(folder: Path, url: str) -> Words:
    index = {"_class_name": ["custom", "Evil"], "unet": ["evil.py", "Evil"]}
    words = folder_model(folder, **{"model_index_json": index})
    (folder / "m" / "unet").mkdir()
    (folder / "m" / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps(Command()))
    (folder / "m" / "pipeline.py").write_text("open('../canary', 'w')")
    return words


@attack()
def exported_folder_with_wrong_page(folder: Path, url: str) -> Words:
    from accel.models.onnx_model import PAGE

    place = folder / "m"
    place.mkdir()
    page = {"name": "x", "prediction": "eps", "zero_terminal_snr": False, "metadata": {},
            "config": {"towers": [[]], "unet": {}, "vae": 3}}  # fmt: skip
    (place / PAGE).write_text(json.dumps(page))
    return [*model("m"), "--runtime", "onnx"]


@attack()
def exported_folder_nested(folder: Path, url: str) -> Words:
    from accel.models.onnx_model import PAGE

    (folder / "m").mkdir()
    (folder / "m" / PAGE).write_text("[" * 100_000)
    return [*model("m"), "--runtime", "onnx"]


# --- embeddings -----------------------------------------------------------------------------------


def embedding(folder: Path, name: str, content: bytes, prompt: str = "evil cat") -> Words:
    place = folder / "models" / "embeddings"
    place.mkdir(parents=True)
    (place / name).write_bytes(content)
    return ["generate", prompt, "-o", "out.png", "--steps", "1", "--width", "64", "--height", "64"]


def embedding_text(text: str) -> bytes:
    import io

    info = PngImagePlugin.PngInfo()
    info.add_text("sd-ti-embedding", text)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@attack(statuses=(0, 2))
def embedding_nested(folder: Path, url: str) -> Words:
    text = base64.b64encode(b"[" * 60_000).decode()
    return embedding(folder, "evil.png", embedding_text(text))


@attack(statuses=(0, 2))
def embedding_of_16k(folder: Path, url: str) -> Words:
    data = png(header(16384, 16384), (b"IDAT", zlib.compress(bytes(999))), (b"IEND", b""))
    return embedding(folder, "evil.png", data)


@attack(statuses=(0, 2))
def embedding_that_runs(folder: Path, url: str) -> Words:
    return embedding(folder, "evil.pt", pickle.dumps(Command()))


@attack(statuses=(0, 2))
def embedding_of_odd_vectors(folder: Path, url: str) -> Words:
    text = json.dumps({"string_to_param": {"*": {"TORCHTENSOR": [[1e400, "x"], [2**70]]}}})
    text = base64.b64encode(text.encode()).decode()
    return embedding(folder, "evil.png", embedding_text(text))


@attack(statuses=(0, 2))
def embedding_bomb(folder: Path, url: str) -> Words:
    data = png(header(8, 8), (b"zTXt", b"sd-ti-embedding\0\0" + bomb(1 << 30)),
               (b"IDAT", zlib.compress(bytes(200))), (b"IEND", b""))  # fmt: skip
    return embedding(folder, "evil.png", data)


# --- networks -------------------------------------------------------------------------------------


def _graphs():
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    def graph(nodes, tensors=(), shape=(1, 128, 128, 3)):
        kind = TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("in_face:0", kind, shape)]
        names = ("out_face_mask:0", "out_celeb_face:0", "out_celeb_face_mask:0")
        out = [helper.make_tensor_value_info(name, kind, None) for name in names]
        nodes = nodes + [helper.make_node("Identity", ["output"], [name]) for name in names]
        made = [numpy_helper.from_array(np.asarray(v), n) for n, v in dict(tensors).items()]
        body = helper.make_graph(nodes, "g", inputs, out, made)
        return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    node, big = helper.make_node, np.array([1 << 17, 1 << 17], np.int64)
    value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
    return {
        "of_endless_constants": graph([node("ConstantOfShape", ["s"], ["output"], value=value)],
                                      {"s": big}),
        "of_endless_range": graph([node("Range", ["a", "b", "c"], ["r"]),
                                   node("Cast", ["r"], ["output"], to=TensorProto.FLOAT)],
                                  {"a": np.int64(0), "b": np.int64(2**40), "c": np.int64(1)}),
        "of_endless_noise": graph([node("RandomNormal", [], ["output"], shape=list(big))]),
        "of_endless_tiles": graph([node("Tile", ["in_face:0", "t"], ["output"])],
                                  {"t": np.array([99999, 99999, 9, 9], np.int64)}),
        "of_endless_padding": graph([node("Pad", ["in_face:0", "p"], ["output"])],
                                    {"p": np.array([0, 0, 2**30, 2**30] * 2, np.int64)}),
        "of_endless_resizing": graph([node("Resize", ["in_face:0", "", "z"], ["output"])],
                                     {"z": np.array([1, 1, 1e4, 1e4], np.float32)}),
        "of_endless_expansion": graph([node("Expand", ["e", "s"], ["output"])],
                                      {"s": big, "e": np.ones((1, 1), np.float32)}),
        "of_sizes_told_late": graph([
            node("ReduceSum", ["in_face:0"], ["sum"], keepdims=0),
            node("Cast", ["sum"], ["whole"], to=TensorProto.INT64),
            node("Mul", ["whole", "zero"], ["none"]), node("Add", ["none", "s"], ["late"]),
            node("ConstantOfShape", ["late"], ["output"], value=value)],
            {"s": big, "zero": np.int64(0)}),
        "of_one_hot": graph([node("OneHot", ["i", "d", "o"], ["output"])],
                            {"i": np.zeros((1 << 12,), np.int64), "d": np.int64(1 << 24),
                             "o": np.array([0, 1], np.float32)}),
        "of_nothing_to_put_in": graph([node("Identity", ["in_face:0"], ["output"])]),
        "of_not_a_number": graph([node("Log", ["m"], ["output"])],
                                 {"m": -np.ones((1, 128, 128, 3), np.float32)}),
    }  # fmt: skip


def _register() -> None:
    for name in ("of_endless_constants", "of_endless_range", "of_endless_noise", "of_endless_tiles",
                 "of_endless_padding", "of_endless_resizing", "of_endless_expansion",
                 "of_sizes_told_late", "of_one_hot", "of_nothing_to_put_in",
                 "of_not_a_number"):  # fmt: skip

        def build(folder: Path, url: str, name=name) -> Words:
            (folder / "a.dfm").write_bytes(_graphs()[name].SerializeToString())
            words = ["swap", "portrait.png", "out.png", "--source", "portrait.png"]
            return [*words, "--swapper", "a.dfm"]

        build.__name__ = f"swapper_{name}"
        attack(statuses=(2,))(build)


_register()


@attack()
def landmarks_network_that_is_text(folder: Path, url: str) -> Words:
    (folder / "w" / "data_src").mkdir(parents=True)
    Image.open(folder / "portrait.png").save(folder / "w" / "data_src" / "00001.png")
    (folder / "a.onnx").write_text("evil")
    return ["dfl", "extract", "w", "--side", "src", "--landmarks", "a.onnx"]


@attack()
def recogniser_that_is_a_pickle(folder: Path, url: str) -> Words:
    film(folder)
    (folder / "a.onnx").write_bytes(pickle.dumps(Command()))
    return swap("a.mp4", "--swapper", "a.onnx", "--recogniser", "a.onnx")


# --- trained models of a workspace ----------------------------------------------------------------


def trained(folder: Path, name: str, content: bytes, *words: str) -> Words:
    place = folder / "w" / "model"
    place.mkdir(parents=True)
    (place / f"new_Quick96_{name}").write_bytes(content)
    if name != "data.dat":
        from accel.weights.pickle_writer import dump_pickle

        told = {"iter": 5, "options": {}, "loss_history": [], "sample_for_preview": None,
                "choosed_gpu_indexes": None}  # fmt: skip
        (place / "new_Quick96_data.dat").write_bytes(dump_pickle(told))
    return ["dfl", "export", "w", "--to", "out.dfm", "--model", "quick96", *words]


@attack()
def trained_options_that_run(folder: Path, url: str) -> Words:
    return trained(folder, "data.dat", pickle.dumps(Command()))


@attack()
def trained_weights_that_run(folder: Path, url: str) -> Words:
    return trained(folder, "encoder.npy", pickle.dumps(Command()))


@attack()
def trained_options_that_are_huge(folder: Path, url: str) -> Words:
    from accel.weights.pickle_writer import dump_pickle

    options = {"resolution": 2**40, "ae_dims": -1, "batch_size": 2**62}
    return trained(folder, "data.dat", dump_pickle({"iter": 2**70, "options": options}))


@attack()
def trained_note_nested(folder: Path, url: str) -> Words:
    words = trained(folder, "encoder.npy", b"")
    (folder / "w" / "model" / "new_Quick96_saving.json").write_bytes(b"[" * 100_000)
    return words


@attack()
def trained_note_that_leaves_its_folder(folder: Path, url: str) -> Words:
    words = trained(folder, "encoder.npy", b"")
    (folder / "theirs").write_bytes(b"x")
    (folder / "w" / "model" / "new_Quick96_saving.json").write_text('["../../theirs"]')
    return words


@attack()
def npz_that_runs(folder: Path, url: str) -> Words:
    import numpy as np

    np.savez(folder / "a.npz", images=np.array([Command()], object))
    return ["train-diffusion", "vae", "a.npz", "run", "--images", "10"]
