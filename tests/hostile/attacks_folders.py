"""More attack files: folders of models, JSON without end, embeddings, what lies in a workspace.

Sources: diffusers' folders; the ONNX external data of CVE-2022-25882; A1111's embeddings in
pictures; LyCORIS's adapters.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.attacks import Words, attack, bomb, entry, film, header, model, png
from tests.hostile.attacks_settings import INDEX, aligned, face
from tests.hostile.attacks_weights import embedding, tensors, trained

# --- JSON that is small to read and large once it is read -----------------------------------------

MANY = b"[" + b"[]," * (15 << 20) + b"[]]"  # 47 MB of text, a gigabyte of lists
WIDE = b'{"a": [' + b"0.5," * (15 << 20) + b"1]}"


def folder_of(folder: Path, **contents: bytes) -> Words:
    """A model's folder; names have __ for / and _json for an ending."""
    for name, content in contents.items():
        path = folder / "m" / name.replace("__", "/").replace("_json", ".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return model("m")


def small_tensors(*names: str) -> bytes:
    told = {n: entry([1], 4 * i, 4 * i + 4) for i, n in enumerate(names)}
    text = json.dumps(told).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4 * len(names))


for _name, _content in {"of_lists": MANY, "of_numbers": WIDE}.items():

    @attack()
    def _reports(folder: Path, url: str, content=_content) -> Words:
        (folder / "a.json").write_bytes(content)
        return ["bench", "--compare", "a.json", "a.json"]

    def _merge(folder: Path, url: str, content=_content) -> Words:
        (folder / "w" / "data_dst").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(folder / "w" / "data_dst" / "00001.png")
        (folder / "merge.json").write_bytes(content)
        return ["dfl", "merge", "w", "--config", "merge.json"]

    def _frames(folder: Path, url: str, content=_content) -> Words:
        place = folder / "w" / "data_dst"
        (place / "merged").mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(place / "merged" / "00001.png")
        (place / "frames.json").write_bytes(content)
        film(folder / "w", "data_dst.mp4")
        return ["dfl", "encode", "w"]

    def _index(folder: Path, url: str, content=_content) -> Words:
        return folder_of(
            folder, **{"unet__diffusion_pytorch_model.safetensors.index_json": content}
        )

    def _page(folder: Path, url: str, content=_content) -> Words:
        return [*folder_of(folder, model_json=content), "--runtime", "onnx"]

    def _config(folder: Path, url: str, content=_content) -> Words:
        return folder_of(
            folder, unet__config_json=content, vae__config_json=b"{}",
            **{"unet__model.safetensors": small_tensors("a")},
        )  # fmt: skip

    def _journal(folder: Path, url: str, content=_content) -> Words:
        place = aligned(folder)
        (place / "extract.json").write_bytes(content)
        Image.new("RGB", (64, 64)).save(place.parent / "00001.png")
        return ["dfl", "extract", "w", "--side", "src"]

    for _build in (_reports, _merge, _frames, _index, _page, _config, _journal):
        _build.__name__ = f"json{_build.__name__}_{_name}"
        attack(statuses=(0, 2))(_build)

# --- a folder in diffusers' layout ----------------------------------------------------------------

UNET = {"block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1,
        "cross_attention_dim": 16, "attention_head_dim": 4, "sample_size": 8}  # fmt: skip
VAE = {"block_out_channels": [16, 32], "latent_channels": 4, "norm_num_groups": 8}
TEXT = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 12}  # fmt: skip


def described(folder: Path, part: str = "", **changes: object) -> Words:
    configs = {"unet": UNET, "vae": VAE, "text_encoder": TEXT}
    if part:
        configs[part] = configs[part] | changes
    files: dict[str, bytes] = {}
    for name, config in configs.items():
        files[f"{name}__config_json"] = json.dumps(config).encode()
        files[f"{name}__model.safetensors"] = small_tensors("a")
    return folder_of(folder, **files)


ODD_SIZES = {
    "unet_of_endless_blocks": ("unet", {"layers_per_block": 65535}),
    "unet_of_endless_transformers": ("unet", {"transformer_layers_per_block": 65535}),
    "unet_of_endless_widths": ("unet", {"block_out_channels": [65535, 65535]}),
    "unet_of_a_word_for_a_size": ("unet", {"addition_embed_type": "text_time",
                                           "addition_time_embed_dim": "x",
                                           "projection_class_embeddings_input_dim": 99}),
    "unet_of_no_size": ("unet", {"addition_embed_type": "text_time",
                                 "addition_time_embed_dim": -1,
                                 "projection_class_embeddings_input_dim": 99}),
    "unet_of_a_list_for_a_size": ("unet", {"addition_embed_type": "text_time",
                                           "addition_time_embed_dim": [1],
                                           "projection_class_embeddings_input_dim": 99}),
    "unet_of_endless_pictures": ("unet", {"sample_size": 2**62}),
    "unet_of_pictures_below_zero": ("unet", {"sample_size": -8}),
    "unet_of_nested_kinds": ("unet", {"down_block_types": [["x"], {}]}),
    "unet_of_odd_groups": ("unet", {"norm_num_groups": 7}),
    "unet_of_odd_heads": ("unet", {"attention_head_dim": 5}),
    "unet_of_one_level": ("unet", {"block_out_channels": [32], "down_block_types": ["DownBlock2D"],
                                   "up_block_types": ["UpBlock2D"]}),
    "vae_of_endless_blocks": ("vae", {"layers_per_block": 65535}),
    "vae_of_endless_levels": ("vae", {"block_out_channels": [8] * 8}),
    "vae_of_endless_scale": ("vae", {"scaling_factor": float("inf")}),
    "vae_of_no_number": ("vae", {"shift_factor": float("nan")}),
    "vae_of_odd_groups": ("vae", {"norm_num_groups": 5}),
    "words_of_endless_layers": ("text_encoder", {"num_hidden_layers": 65535}),
    "words_of_odd_heads": ("text_encoder", {"num_attention_heads": 7}),
    "words_of_a_number_for_a_kind": ("text_encoder", {"architectures": 5}),
    "words_of_a_list_for_a_kind": ("text_encoder", {"hidden_act": []}),
    "words_of_an_odd_end": ("text_encoder", {"eos_token_id": -5}),
    "words_of_an_odd_norm": ("text_encoder", {"layer_norm_eps": []}),
}  # fmt: skip
for _name, (_part, _changes) in ODD_SIZES.items():

    def _build(folder: Path, url: str, part=_part, changes=_changes) -> Words:
        return described(folder, part, **changes)

    _build.__name__ = f"folder_with_{_name}"
    attack()(_build)


@attack()
def folder_whose_words_never_end(folder: Path, url: str) -> Words:
    words = described(folder)
    place = folder / "m" / "tokenizer"
    place.mkdir()
    (place / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    with open(place / "merges.txt", "wb") as file:
        file.truncate(900 << 20)
    return words


@attack()
def folder_of_odd_tokens(folder: Path, url: str) -> Words:
    words = described(folder)
    place = folder / "m" / "tokenizer"
    place.mkdir()
    (place / "vocab.json").write_text('{"<|startoftext|>": [], "a": {}}')
    (place / "tokenizer_config.json").write_text('{"pad_token": {"content": ["x"]}}')
    (place / "merges.txt").write_text("a b\n" * 1000)
    return words


@attack()
def folder_whose_parts_are_elsewhere(folder: Path, url: str) -> Words:
    words = described(folder)
    (folder / "m" / "unet" / "model.safetensors").unlink()
    told = {"weight_map": {"a": "../../../../etc/passwd", "b": "/etc/passwd"}}
    (folder / "m" / "unet" / "model.safetensors.index.json").write_text(json.dumps(told))
    return words


# --- an exported folder ---------------------------------------------------------------------------


def page() -> str:
    from accel.models import stable_diffusion as sd

    return json.dumps({"name": "sd1", "prediction": "eps", "zero_terminal_snr": False,
                       "metadata": {}, "config": asdict(sd.CONFIGS["sd1"])})  # fmt: skip


def exported(folder: Path, content: bytes) -> Words:
    for part in ("text_0", "unet", "vae_encoder", "vae_decoder"):
        (folder / "m" / part).mkdir(parents=True)
        (folder / "m" / part / "model.onnx").write_bytes(content)
    (folder / "m" / "model.json").write_text(page())
    return [*model("m"), "--runtime", "onnx"]


def _exported() -> None:
    from tests.weights import test_onnx_hostile as hostile

    named = {
        "dense": hostile.dense, "sparse": lambda: hostile.sparse("values"),
        "sparse_indices": lambda: hostile.sparse("indices"), "subgraph": hostile.subgraph_twice,
        "in_function": hostile.in_function, "foreign": hostile.foreign_in_function,
        "endless": hostile.endless, "outer_product": hostile.outer_product,
        "sparse_bomb": hostile.sparse_bomb,
    }  # fmt: skip
    for name, make in named.items():

        def build(folder: Path, url: str, make=make) -> Words:
            return exported(folder, make().SerializeToString())

        build.__name__ = f"exported_folder_{name}"
        attack()(build)


_exported()


@attack()
def exported_folder_that_reads_a_secret(folder: Path, url: str) -> Words:
    """Its weights lie in a file beside it, which is a link, or has a name that leads elsewhere."""
    from onnx import TensorProto, helper

    (folder / "secret").write_bytes(bytes(64))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="inside")
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [16])
    into = helper.make_tensor_value_info("x", TensorProto.FLOAT, [16])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])], "g", [into], [out], [weight]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    words = exported(folder, made.SerializeToString())
    for part in ("text_0", "unet", "vae_encoder", "vae_decoder"):
        (folder / "m" / part / "inside").symlink_to(folder / "secret")
    return words


@attack()
def exported_folder_of_pipes(folder: Path, url: str) -> Words:
    words = exported(folder, b"")
    for part in ("text_0", "unet"):
        (folder / "m" / part / "model.onnx").unlink()
        os.mkfifo(folder / "m" / part / "model.onnx")
    return words


# --- embeddings -----------------------------------------------------------------------------------


@attack(statuses=(0, 2))
def embedding_of_900_megabytes(folder: Path, url: str) -> Words:
    """A thousand tensors where one is wanted."""
    rows = 900
    told = {f"t{i}": entry([1 << 18], i << 20, (i + 1) << 20) for i in range(rows)}
    text = json.dumps(told).encode()
    words = embedding(folder, "evil.safetensors", b"")
    with open(folder / "models" / "embeddings" / "evil.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + (rows << 20))
    return words


@attack(statuses=(0, 2))
def embedding_of_one_huge_vector(folder: Path, url: str) -> Words:
    count = 220 << 20
    text = json.dumps({"t": entry([count // 768, 768], 0, count // 768 * 768 * 4)}).encode()
    words = embedding(folder, "evil.safetensors", b"")
    with open(folder / "models" / "embeddings" / "evil.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + count // 768 * 768 * 4)
    return words


def embedding_pixels(side: int, content: bytes = b"") -> bytes:
    """A picture whose low bits are two blocks, as A1111 hides a vector in them."""
    import io

    from accel.weights.embedding import unscrambled

    packed = np.frombuffer(zlib.compress(content, 9), np.uint8) if content else None
    wide = side // 2 - 1
    data = np.zeros(side * wide * 3, np.uint8)
    if packed is not None:
        data[: len(packed)] = packed
    pixels = np.full((side, side, 3), 0x10, np.uint8)
    lower, upper = (unscrambled(b.reshape(side, wide, 3)) for b in (data & 15, data >> 4))
    pixels[:, :wide] |= lower
    pixels[:, -wide:] |= upper
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return file.getvalue()


@attack(statuses=(0, 2))
def embedding_of_many_pixels(folder: Path, url: str) -> Words:
    pixels = np.random.default_rng(0).integers(16, 255, (2040, 2040, 3), np.uint8)
    pixels[:, 1000:1002] = 16  # the columns that part its blocks
    file = folder / "a.png"
    Image.fromarray(pixels).save(file, compress_level=1)
    return embedding(folder, "evil.png", file.read_bytes())


@attack(statuses=(0, 2))
def embedding_of_many_lists(folder: Path, url: str) -> Words:
    return embedding(folder, "evil.png", embedding_pixels(512, MANY))


@attack(statuses=(0, 2))
def embedding_of_many_numbers(folder: Path, url: str) -> Words:
    text = b'{"string_to_param": {"*": {"TORCHTENSOR": [[' + b"1," * (20 << 20) + b"1]]}}}"
    return embedding(folder, "evil.png", embedding_pixels(512, text))


# --- adapters -------------------------------------------------------------------------------------

MODULE = "lora_unet_input_blocks_1_0_in_layers_2"  # of nano, as of all of the family
N = 40_000
FACTORS = {
    "lora": {"lora_up.weight": (N, 1), "lora_down.weight": (1, N)},
    "loha": {"hada_w1_a": (N, 1), "hada_w1_b": (1, N), "hada_w2_a": (N, 1), "hada_w2_b": (1, N)},
    "lokr": {"lokr_w1": (N, 1), "lokr_w2": (1, N)},
    "lokr_of_parts": {"lokr_w1_a": (200, 1), "lokr_w1_b": (1, 200), "lokr_w2_a": (200, 1),
                      "lokr_w2_b": (1, 200)},
    "glora": {"a1.weight": (N, 1), "a2.weight": (1, N), "b1.weight": (N, 1), "b2.weight": (1, N)},
    "oft": {"oft_blocks": (1, 12_000, 12_000)},
    "oft_of_stages": {"oft_blocks": (5000, 1, 16, 16)},
    "tucker": {"lora_up.weight": (N, 1), "lora_down.weight": (1, N), "lora_mid.weight": (1, 1, 9)},
    "scales": {"lora_up.weight": (N, 1), "lora_down.weight": (1, N), "scale": (5,)},
    "ia3": {"weight": (N,), "on_input": (3,)},
    "full": {"diff": (N, 1000)},
    "dora": {"lora_up.weight": (1, 1), "lora_down.weight": (1, 1), "dora_scale": (0, 0)},
}  # fmt: skip


def module_of(parts: dict[str, tuple[int, ...]], module: str) -> tuple[dict[str, object], int]:
    told, at = {}, 0
    for name, shape in parts.items():
        size = 4 * int(np.prod(shape))
        told[f"{module}.{name}"] = entry(list(shape), at, at + size)
        at += size
    return told, at


for _name, _parts in FACTORS.items():

    def _build(folder: Path, url: str, parts=_parts) -> Words:
        from accel.weights.assets import asset
        from accel.weights.files import open_tensors

        known = open_tensors(asset("nano_ink_lora.safetensors"))
        module = next(n for n in known if "unet" in n).partition(".")[0]
        told, size = module_of(parts, module)
        tensors(folder, told, b"")
        with open(folder / "a.safetensors", "ab") as file:
            file.truncate(file.tell() + size)
        words = ["generate", "a cat", "-o", "out.png", "--steps", "1", "--width", "64"]
        return [*words, "--height", "64", "--lora", "a.safetensors"]

    _build.__name__ = f"lora_that_swells_by_{_name}"
    attack(statuses=(0, 2))(_build)

# --- faces of a workspace -------------------------------------------------------------------------


def zeros(side: int, kind: int, *more: tuple[bytes, bytes]) -> bytes:
    """A picture that is small as a file: grey (0) or of colours (2)."""
    packer, row = zlib.compressobj(9), bytes(1 + side * (1 + kind))
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(header(side, side, 8, kind), *more, (b"IDAT", rows), (b"IEND", b""))


def png_face(side: int, **changes: object) -> bytes:
    """Such a picture with the record of a face."""
    from accel.faces.faceset import PNG_CHUNK, dict_from
    from accel.weights.pickle_writer import dump_pickle
    from tests.fuzz.targets import _record

    return zeros(side, 2, (PNG_CHUNK, dump_pickle(dict_from(replace(_record(), **changes)))))


STEPS = {
    "sort": ["sort", "w", "--side", "src", "--by", "blur"],
    "sheet": ["sort", "w", "--side", "src", "--by", "hist", "--sheet", "s.png"],
    "pack": ["pack", "w", "--side", "src"],
    "train": ["train", "w", "--model", "quick96", "--iterations", "1", "--batch", "1"],
}


def both_sides(folder: Path, **files: bytes) -> Path:
    for side in ("src", "dst"):
        place = folder / "w" / f"data_{side}" / "aligned"
        place.mkdir(parents=True)
        for name, content in files.items():
            (place / name.replace("_", ".")).write_bytes(content)
    return folder / "w" / "data_src" / "aligned"


for _name, _words in STEPS.items():

    def _of_20k(folder: Path, url: str, words=_words) -> Words:
        both_sides(folder, a_png=png_face(20_000))
        return ["dfl", *words]

    def _of_a_huge_mask(folder: Path, url: str, words=_words) -> Words:
        both_sides(folder, a_png=png_face(64, xseg_mask=zeros(30_000, 0)))
        return ["dfl", *words]

    def _of_900_megabytes(folder: Path, url: str, words=_words) -> Words:
        place = both_sides(folder, a_jpg=face())
        with open(place / "a.jpg", "ab") as file:
            file.truncate(900 << 20)
        return ["dfl", *words]

    def _that_are_pipes(folder: Path, url: str, words=_words) -> Words:
        os.mkfifo(both_sides(folder) / "a.jpg")
        return ["dfl", *words]

    def _of_filling(folder: Path, url: str, words=_words) -> Words:
        data = face()
        both_sides(folder, a_jpg=data[:2] + b"\xff" * (200 << 20) + data[2:])
        return ["dfl", *words]

    def _of_comments(folder: Path, url: str, words=_words) -> Words:
        data = face()
        both_sides(folder, a_jpg=data[:2] + b"\xff\xfe\0\2" * (50 << 20) + data[2:])
        return ["dfl", *words]

    for _build in (_of_20k, _of_a_huge_mask, _of_900_megabytes, _that_are_pipes, _of_filling,
                   _of_comments):  # fmt: skip
        _build.__name__ = f"faces{_build.__name__}_{_name}"
        attack(statuses=(0, 2))(_build)


def merged(folder: Path, data: bytes, **options: object) -> Words:
    """A workspace to be merged whose model is a stranger's."""
    from accel.weights.pickle_writer import dump_pickle

    both_sides(folder, a_jpg=data)
    Image.new("RGB", (64, 64)).save(folder / "w" / "data_dst" / "00001.png")
    place = folder / "w" / "model"
    place.mkdir()
    told = {"iter": 5, "options": options, "loss_history": []}
    (place / "new_SAEHD_data.dat").write_bytes(dump_pickle(told))
    return ["dfl", "merge", "w"]


SIZES = {"resolution": 128, "archi": "df", "ae_dims": 64, "e_dims": 16, "d_dims": 16,
         "d_mask_dims": 8, "face_type": "f"}  # fmt: skip
for _name, _options in {
    "without_end": SIZES | {"resolution": float("inf")},
    "of_no_number": SIZES | {"ae_dims": float("nan")},
    "of_lists": SIZES | {"ae_dims": [[]], "archi": {}},
    "of_the_largest": SIZES | {"resolution": 640, "ae_dims": 1024, "e_dims": 1024, "d_dims": 1024,
                               "d_mask_dims": 1024},
    "of_odd_words": SIZES | {"archi": "df-\x1b[2J", "face_type": "\u202e" * 999},
}.items():  # fmt: skip

    def _build(folder: Path, url: str, options=_options) -> Words:
        return merged(folder, face(), **options)

    _build.__name__ = f"model_sizes_{_name}"
    attack()(_build)

    def _export(folder: Path, url: str, options=_options) -> Words:
        merged(folder, face(), **options)
        return ["dfl", "export", "w", "--to", "out.dfm"]

    _export.__name__ = f"model_sizes_{_name}_exported"
    attack()(_export)

    def _train(folder: Path, url: str, options=_options) -> Words:
        merged(folder, face(), **options)
        return ["dfl", "train", "w", "--model", "saehd", "--iterations", "6", "--batch", "1"]

    _train.__name__ = f"model_sizes_{_name}_trained"
    attack()(_train)


@attack()
def trained_for_a_list_of_steps(folder: Path, url: str) -> Words:
    from accel.weights.pickle_writer import dump_pickle

    words = trained(folder, "encoder.npy", b"")
    told = {"iter": [[]], "options": {"resolution": 96}, "loss_history": {"a": 1}}
    (folder / "w" / "model" / "new_Quick96_data.dat").write_bytes(dump_pickle(told))
    return words


@attack(statuses=(0, 2))
def frames_of_a_long_list(folder: Path, url: str) -> Words:
    place = folder / "w" / "data_dst"
    (place / "merged").mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(place / "merged" / "00001.png")
    stamps = {f"{i:07}": i for i in range(1_000_000)}
    (place / "frames.json").write_text(json.dumps(INDEX | {"pts": stamps}))
    film(folder / "w", "data_dst.mp4")
    return ["dfl", "encode", "w"]


@attack()
def mask_that_is_a_bomb(folder: Path, url: str) -> Words:
    file = png(header(8, 8), (b"iCCP", b"x\0\0" + bomb(1 << 30)),
               (b"IDAT", zlib.compress(bytes(200))), (b"IEND", b""))  # fmt: skip
    (folder / "a.png").write_bytes(file)
    return ["generate", "a cat", "-o", "out.png", "--steps", "1", "--init", "a.png", "--width",
            "64", "--height", "64", "--mask", "a.png"]  # fmt: skip
