"""Quick96 and SAEHD against the published counts, and against NumPy in TensorFlow's layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from accel import unfinished
from accel.core import ConfigError, InputError
from accel.faces.autoencoder import (
    QUICK96,
    Autoencoder,
    AutoencoderConfig,
    from_dfl_order,
    to_dfl_order,
)
from accel.faces.autoencoder_loss import dssim, gaussian_blur, side_loss, windows
from accel.weights import dfl
from accel.weights.pickle_writer import dump_pickle
from accel.weights.pickles import load_pickle

SMALL = {"ae_dims": 6, "e_dims": 4, "d_dims": 4, "d_mask_dims": 2}


def model(archi="df-ud", resolution=64, seed=0, **dims):
    config = AutoencoderConfig(resolution=resolution, archi=archi, **(SMALL | dims))
    made = Autoencoder(config, torch.Generator().manual_seed(seed)).eval()
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):  # new biases are zero, which would hide their order
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return made


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_quick96_has_the_published_size():
    with torch.device("meta"):
        made = Autoencoder(QUICK96)
    parts = {name: count(part) for name, part in made.parts.items()}
    assert parts == {
        "encoder": 4_306_560,
        "inter": 3_098_368,
        "decoder_src": 15_444_701,
        "decoder_dst": 15_444_701,
    }
    assert count(made) == 38_294_330


def test_quick96_layer_by_layer():
    with torch.device("meta"):
        made = Autoencoder(QUICK96)
        seen = {}
        for name, module in made.named_modules():
            if name and "conv" not in name:
                module.register_forward_hook(
                    lambda m, i, out, name=name: seen.__setitem__(name, out)
                )
        made(torch.empty(2, 3, 96, 96))
    shapes = {k: tuple(v.shape[1:]) for k, v in seen.items() if isinstance(v, torch.Tensor)}
    assert shapes["encoder.down1.downs_0"] == (64, 48, 48)
    assert shapes["encoder.down1.downs_3"] == (512, 6, 6)
    assert shapes["encoder"] == (18_432,)
    assert shapes["inter.dense1"] == (128,)
    assert shapes["inter.dense2"] == (1152,)
    assert shapes["inter"] == (128, 6, 6)
    assert shapes["decoder_src.res0"] == (512, 12, 12)
    assert shapes["decoder_src.res1"] == (256, 24, 24)
    assert shapes["decoder_src.res2"] == (128, 48, 48)
    assert shapes["decoder_dst.upscalem0"] == (128, 12, 12)
    assert shapes["decoder_dst.upscalem3"] == (16, 96, 96)


# --- the same network in NumPy, in TensorFlow's layout, from a file's arrays alone --------------


def np_conv(x, weights, name, stride=1):  # x [H, W, C], kernel [k, k, in, out]
    kernel, bias = weights[f"{name}/weight:0"], weights[f"{name}/bias:0"]
    k = kernel.shape[0]
    padded = np.pad(x, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
    height, width = x.shape[0] // stride, x.shape[1] // stride
    out = np.zeros((height, width, kernel.shape[3]))
    for dy in range(k):
        for dx in range(k):
            out += (
                padded[dy : dy + x.shape[0] : stride, dx : dx + x.shape[1] : stride]
                @ kernel[dy, dx]
            )
    return out + bias


def np_relu(x, slope):
    return np.where(x > 0, x, slope * x)


def np_depth_to_space(x):  # channels are counted (dy, dx, channel)
    h, w, c = x.shape
    return x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c // 4)


def np_up(x, weights, name):
    return np_depth_to_space(np_relu(np_conv(x, weights, f"{name}/conv1"), 0.1))


def np_res(x, weights, name):
    inner = np_relu(np_conv(x, weights, f"{name}/conv1"), 0.2)
    return np_relu(x + np_conv(inner, weights, f"{name}/conv2"), 0.2)


def np_sigmoid(x):
    return 1 / (1 + np.exp(-x))


def np_swap(picture, encoder, inter, decoder, dense_px):
    x = picture
    for i in range(4):
        x = np_relu(np_conv(x, encoder, f"down1/downs_{i}/conv1", 2), 0.1)
    code = x.transpose(2, 0, 1).ravel()
    code = code / np.sqrt((code**2).mean() + 1e-6)
    code = code @ inter["dense1/weight:0"] + inter["dense1/bias:0"]
    code = code @ inter["dense2/weight:0"] + inter["dense2/bias:0"]
    x = np_up(code.reshape(-1, dense_px, dense_px).transpose(1, 2, 0), inter, "upscale1")
    mask = x
    for i in range(3):
        x = np_res(np_up(x, decoder, f"upscale{i}"), decoder, f"res{i}")
    for i in range(4):
        mask = np_up(mask, decoder, f"upscalem{i}")
    outs = [np_conv(x, decoder, f"out_conv{i or ''}") for i in range(4)]
    face = np_sigmoid(np_depth_to_space(np.concatenate(outs, -1)))
    return face, np_sigmoid(np_conv(mask, decoder, "out_convm"))


def test_exported_files_are_tensorflows_network(tmp_path):
    made = model()
    files = {}
    for part in ("encoder", "inter", "decoder_src"):
        path = dfl.part_file(tmp_path, "new", "Quick96", part)
        dfl.write_weights(path, to_dfl_order(made.parts[part]))
        files[part] = load_pickle(path.read_bytes())
    picture = np.random.default_rng(0).random((64, 64, 3))
    with torch.no_grad():
        face, mask, _ = made(torch.tensor(picture.transpose(2, 0, 1)[None], dtype=torch.float32))
    wanted, wanted_mask = np_swap(picture, *files.values(), made.config.dense_px)
    assert abs(face[0].permute(1, 2, 0).numpy() - wanted).max() < 1e-5
    assert abs(mask[0].permute(1, 2, 0).numpy() - wanted_mask).max() < 1e-5
    assert "down1/downs_0/conv1/weight:0" in files["encoder"]
    assert files["encoder"]["down1/downs_0/conv1/weight:0"].shape == (5, 5, 3, 4)
    assert files["inter"]["dense1/weight:0"].shape == (4 * 8 * 16, 6)


@pytest.mark.parametrize("archi", ["df-ud", "liae-udt", "df", "liae-c"])
def test_weight_files_round_trip(tmp_path, archi):
    first, second = model(archi), model(archi, seed=7)
    for name, part in first.parts.items():
        path = tmp_path / f"{name}.npy"
        dfl.write_weights(path, to_dfl_order(part))
        second.parts[name].load_state_dict(
            from_dfl_order(second.parts[name], dfl.read_weights(path))
        )
        dfl.write_weights(tmp_path / "again.npy", to_dfl_order(second.parts[name]))
        assert (tmp_path / "again.npy").read_bytes() == path.read_bytes()
    for a, b in zip(first.parameters(), second.parameters()):
        assert (a - b).abs().max() <= 1e-6


@pytest.mark.parametrize("kind", ["df", "liae"])
@pytest.mark.parametrize("flags", ["", "-u", "-d", "-t", "-c", "-ud", "-dt", "-udtc"])
def test_every_architecture_gives_faces_and_masks(kind, flags):
    made = model(kind + flags)
    with torch.no_grad():
        face, mask, mask_dst = made(torch.rand(1, 3, 64, 64))
        own, own_mask = made.reconstruct_dst(torch.rand(1, 3, 64, 64))
        other, _ = made.reconstruct_src(torch.rand(1, 3, 64, 64))
    assert face.shape == own.shape == other.shape == (1, 3, 64, 64)
    assert mask.shape == mask_dst.shape == own_mask.shape == (1, 1, 64, 64)
    assert 0 <= face.min() <= face.max() <= 1


@pytest.mark.parametrize("resolution", [80, 160])
def test_other_resolutions(resolution):
    archi = "liae-u" if resolution % 32 else "liae-ud"
    with torch.device("meta"):
        made = Autoencoder(AutoencoderConfig(resolution=resolution, archi=archi, **SMALL))
        assert made(torch.empty(1, 3, resolution, resolution))[0].shape[-1] == resolution


def test_swap_takes_the_sources_way():
    made, pictures = model("liae-ud"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        face, _, mask_dst = made(pictures)
        torch.testing.assert_close(face, made.reconstruct_src(pictures)[0])
        torch.testing.assert_close(mask_dst, made.reconstruct_dst(pictures)[1])


def test_same_generator_same_weights():
    one, two = (model(seed=s).encoder.down1.downs_0.conv1.weight for s in (3, 3))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"archi": "big"}, "archi must be df or liae"),
        ({"archi": "df-uu"}, "archi must be df or liae"),
        ({"archi": "df-x"}, "archi must be df or liae"),
        ({"resolution": 100}, "steps of 32"),
        ({"resolution": 80, "archi": "df-t"}, "steps of 32"),
        ({"resolution": 72, "archi": "df"}, "steps of 16"),
        ({"resolution": 656, "archi": "df"}, "640"),
        ({"ae_dims": 0}, "ae_dims must lie in 2..1024"),
    ],
)
def test_refuses_shapes_that_cannot_be(values, why):
    with pytest.raises(ConfigError, match=why):
        AutoencoderConfig(**values)


def test_weights_of_another_model_are_refused(tmp_path):
    made, path = model(), tmp_path / "encoder.npy"
    dfl.write_weights(path, to_dfl_order(model(e_dims=8).encoder))
    with pytest.raises(InputError, match=r"downs_0.conv1.weight must be \[4, 3, 5, 5\], got \[8"):
        from_dfl_order(made.encoder, dfl.read_weights(path))
    dfl.write_weights(path, to_dfl_order(made.inter))
    with pytest.raises(InputError, match="8 are missing"):
        from_dfl_order(made.encoder, dfl.read_weights(path))


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([1], "dictionary of weights"),
        ({}, "dictionary of weights"),
        ({"a:0": "x"}, "must be an array"),
        ({1: np.ones(2)}, "must be an array"),
        ({"a:0": np.array([1, np.nan], np.float32)}, "finite"),
    ],
)
def test_refuses_files_that_are_no_weights(tmp_path, value, why):
    path = tmp_path / "encoder.npy"
    path.write_bytes(dump_pickle(value))
    with pytest.raises(InputError, match=why) as caught:
        dfl.read_weights(path)
    assert "\n" not in str(caught.value)


def test_models_of_a_folder(tmp_path):
    for name, kind in (("new", "Quick96"), ("my_model", "SAEHD")):
        dfl.write_data(tmp_path / f"{name}_{kind}_data.dat", {"iter": 5, "options": {"batch": 4}})
    assert set(dfl.find_models(tmp_path)) == {("new", "Quick96"), ("my_model", "SAEHD")}
    assert dfl.read_data(tmp_path / "new_Quick96_data.dat")["iter"] == 5
    with pytest.raises(InputError, match=r"no such file|found none"):
        dfl.read_weights(tmp_path / "none.npy")
    assert dfl.find_models(tmp_path / "none") == []


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "encoder.npy"
    dfl.write_weights(path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def full(partial, content):
        partial.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(unfinished, "put", full)
    with pytest.raises(OSError, match="No space"):
        dfl.write_weights(path, {"a": torch.zeros(2)})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["encoder.npy"]


# --- loss ---------------------------------------------------------------------------------------


def np_filter(x, kernel):  # x [H, W], valid
    k = kernel.shape[0]
    rows, columns = x.shape[0] - k + 1, x.shape[1] - k + 1
    return sum(kernel[i, j] * x[i : i + rows, j : j + columns] for i in range(k) for j in range(k))


def np_gaussian(size, sigma, centre):
    at = np.arange(size) - centre
    kernel = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def np_blur(mask, sigma):
    size = max(3, int(4 * sigma))
    size += 1 - size % 2
    return np_filter(np.pad(mask, size // 2), np_gaussian(size, sigma, size // 2))


def np_dssim(a, b, window):
    kernel = np_gaussian(window, 1.5, (window - 1) / 2)
    values = []
    for x, y in zip(a, b):
        mx, my = np_filter(x, kernel), np_filter(y, kernel)
        vx, vy = np_filter(x * x, kernel) - mx**2, np_filter(y * y, kernel) - my**2
        cov = np_filter(x * y, kernel) - mx * my
        c1, c2 = 0.01**2, 0.03**2
        ssim = (2 * mx * my + c1) / (mx**2 + my**2 + c1) * (2 * cov + c2) / (vx + vy + c2)
        values.append((1 - ssim.mean()) / 2)
    return np.array(values)


def np_loss(face, mask, target, target_mask, windows, soft):
    seen, wanted = face * soft, target * soft
    loss = 10 * ((seen - wanted) ** 2).mean() + 10 * ((mask - target_mask) ** 2).mean()
    return loss + sum(w * np_dssim(wanted, seen, size).mean() for w, size in windows)


def batch(px, seed=0):
    make = np.random.default_rng(seed)
    y, x = np.mgrid[:px, :px] / px
    smooth = 0.5 + 0.3 * np.sin(7 * x + np.arange(3)[:, None, None]) * np.cos(5 * y)
    face = np.clip(smooth + 0.1 * make.standard_normal((3, px, px)), 0, 1)
    target_mask = ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.15)[None].astype(float)
    return face, make.random((1, px, px)), smooth, target_mask


def as_tensors(arrays):
    return [torch.tensor(a[None], dtype=torch.float32) for a in arrays]


def test_quick96_loss_is_the_formula():
    arrays = batch(96)
    soft = np_blur(arrays[3][0], 3)
    wanted = np_loss(*arrays, [(10, 8)], soft)
    assert side_loss(*as_tensors(arrays)).item() == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("px", [128, 256])
def test_saehd_loss_is_the_formula(px):
    arrays = batch(px)
    soft = np.clip(np_blur(arrays[3][0], px // 32), 0, 0.5) * 2
    sizes = [(10, 11)] if px == 128 else [(5, 22), (5, 11)]
    assert windows(px, "saehd") == sizes
    wanted = np_loss(*arrays, sizes, soft)
    assert side_loss(*as_tensors(arrays), kind="saehd").item() == pytest.approx(wanted, abs=1e-5)


def test_details_count_three_hundred_times():
    face, mask, target, target_mask = as_tensors(batch(96))
    details = torch.zeros_like(mask)
    details[..., 30:40, 30:40] = 1
    args = (face, mask, target, target_mask)
    more = side_loss(*args, details=details) - side_loss(*args)
    wanted = 300 * ((face - target)[..., 30:40, 30:40]).abs().sum() / (3 * 96 * 96)
    torch.testing.assert_close(more[0], wanted, rtol=1e-4, atol=1e-4)


def test_equal_pictures_lose_nothing():
    face, _, _, mask = as_tensors(batch(96))
    assert side_loss(face, mask, face, mask).item() == pytest.approx(0, abs=1e-6)
    assert dssim(face, face, 8).abs().max() < 1e-6


def test_blur_keeps_a_flat_middle():
    blurred = gaussian_blur(torch.ones(1, 1, 32, 32), 3)
    assert blurred[0, 0, 16, 16].item() == pytest.approx(1, abs=1e-6)
    assert blurred[0, 0, 0, 0].item() < 0.4


def test_loss_has_a_gradient():
    made = model()
    pictures = torch.rand(2, 3, 64, 64)
    loss = side_loss(*made.reconstruct_src(pictures), pictures, torch.ones(2, 1, 64, 64))
    loss.sum().backward()
    used = [n for n, p in made.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert any(n.startswith("decoder_src") for n in used)
    assert not any(n.startswith("decoder_dst") for n in used)


def test_loss_refuses_what_does_not_fit():
    face, mask, target, target_mask = as_tensors(batch(96))
    with pytest.raises(ValueError, match="one shape"):
        side_loss(face, mask, target[..., 1:], target_mask)
    with pytest.raises(ValueError, match="quick96 or saehd"):
        side_loss(face, mask, target, target_mask, kind="amp")
    with pytest.raises(ValueError, match=r"window must lie in 1..96"):
        dssim(face, target, 97)
