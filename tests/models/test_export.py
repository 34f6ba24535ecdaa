"""Every network as ONNX, run by ONNX Runtime at other sizes than it was traced at."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
import torch

from accel.core import ConfigError, InputError
from accel.models import stable_diffusion as sd
from accel.models.export import (
    OPSET,
    export_adapter,
    export_control,
    export_model,
    export_tiny,
)
from accel.models.load import Loaded
from accel.models.onnx_model import Session, open_onnx
from accel.nn.adapter import Adapter, AdapterConfig
from accel.nn.control import ControlNet
from accel.nn.text import TextConfig
from accel.nn.tiny_vae import TinyDecoder, TinyEncoder
from accel.nn.unet import UnetConfig
from accel.nn.vae import VaeConfig
from tests.weights.test_onnx_hostile import sparse

CPU = ["CPUExecutionProvider"]
SMALL = TextConfig(vocabulary=50, length=12, width=16, layers=3, heads=2, end_token=49)
UNET = {
    "sd1": UnetConfig(channels=32, channel_mult=(1, 2), res_blocks=1, transformer_depth=(1, 1),
                      context_width=16, heads=4),
    "sdxl": UnetConfig(channels=32, channel_mult=(1, 2), res_blocks=1, transformer_depth=(0, 1),
                       middle_depth=1, context_width=40, heads=0, head_width=16,
                       linear_projection=True, vector_width=24 + 6 * sd.SIZE_WIDTH),
}  # fmt: skip


def small(name):
    """A member of the family with everything in it, only less."""
    torch.manual_seed(0)
    base = sd.CONFIGS[name]
    towers = tuple(
        replace(t, config=replace(SMALL, width=w, quick_gelu=not t.open_clip,
                                  projection=w if t.open_clip else 0))
        for t, w in zip(base.towers, (16, 24), strict=False)
    )  # fmt: skip
    vae = VaeConfig(base_channels=16, channel_mult=(1, 2), res_blocks=1, norm_groups=8)
    model = sd.build(replace(base, towers=towers, unet=UNET[name], vae=vae))
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, 0.5, 0.2)
        elif not parameter.abs().max():
            torch.nn.init.normal_(parameter, 0, 0.2)
    return Loaded(name, model.eval().requires_grad_(False), "v", False, {"made": "here"})


# Tracing is slow, and the second takes other paths in few places only.
@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def both(request, tmp_path_factory):
    ours = small(request.param)
    folder = tmp_path_factory.mktemp("onnx") / "model"
    export_model(ours, folder, control=request.param == "sd1")
    return ours, open_onnx(folder), folder


def assert_equal(got, expected):
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_says_what_it_is(both):
    ours, theirs, folder = both
    assert theirs.model.config == ours.model.config
    assert (theirs.name, theirs.prediction, theirs.metadata) == (ours.name, "v", {"made": "here"})
    for path in folder.glob("*/model.onnx"):
        graph = onnx.load(path)
        assert graph.opset_import[0].version == OPSET
        assert {node.domain for node in graph.graph.node} == {""}


@pytest.mark.parametrize("length", [12, 5])
@pytest.mark.parametrize("clip_skip", [1, 2])
def test_text(both, length, clip_skip):
    ours, theirs, _ = both
    tokens = torch.randint(0, 48, (3, length))
    tokens[:, length // 2 :] = 49
    given = [tokens] * len(ours.model.towers)
    expected = ours.model.encode_text(given, clip_skip)
    got = theirs.model.encode_text(given, clip_skip)
    assert_equal(got.context, expected.context)
    if ours.name == "sdxl":
        assert_equal(got.pooled, expected.pooled)
    doubled = theirs.model.encode_text(given, clip_skip, lambda hidden: hidden * 2)
    assert_equal(doubled.context, 2 * expected.context)


@pytest.mark.parametrize("shape", [(1, 8, 8, 7), (3, 12, 20, 154)])
def test_unet(both, shape):
    ours, theirs, _ = both
    batch, height, width, tokens = shape
    config = ours.model.config.unet
    x, t = torch.randn(batch, 4, height, width), torch.rand(batch) * 999
    context = torch.randn(batch, tokens, config.context_width)
    vector = torch.randn(batch, config.vector_width) if config.vector_width else None
    expected = ours.model.unet(x, t, context, vector)
    assert_equal(theirs.model.unet(x, t, context, vector), expected)
    if ours.name == "sd1":
        sides = [1, 1, 2, 2, 2]  # divisors, skip by skip, then the middle
        control = [
            torch.randn(batch, w, height // d, width // d)
            for w, d in zip([32, 32, 32, 64, 64], sides, strict=True)
        ]
        steered = ours.model.unet(x, t, context, vector, control)
        assert_equal(theirs.model.unet(x, t, context, vector, control), steered)
        assert (steered - expected).abs().max() > 1e-2
    else:
        with pytest.raises(ConfigError, match="was exported for 0 inputs of a ControlNet, got 1"):
            theirs.model.unet(x, t, context, vector, [x])


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 12, 28)])
def test_autoencoder(both, shape):
    ours, theirs, _ = both
    batch, height, width = shape
    image = torch.rand(batch, 3, height, width) * 2 - 1
    latent = ours.model.vae.encode(image)
    assert_equal(theirs.model.vae.encode(image), latent)
    assert_equal(theirs.model.vae.decode(latent), ours.model.vae.decode(latent))


def test_control_net(tmp_path):
    torch.manual_seed(0)
    config = UNET["sdxl"]
    network = ControlNet(config).eval().requires_grad_(False)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0, 0.05)  # so that its last layers give something
    session = Session(export_control(network, tmp_path / "c.onnx"), CPU, 0)
    x, hint, t = torch.randn(1, 4, 6, 4), torch.rand(1, 3, 48, 32), torch.tensor([7.0])
    context, vector = torch.randn(1, 9, 40), torch.randn(1, config.vector_width)
    got = session(x=x, hint=hint, t=t, context=context, vector=vector)
    for ours, expected in zip(got, network(x, hint, t, context, vector), strict=True):
        assert_equal(ours, expected)


def test_small_autoencoder_and_adapter(tmp_path):
    torch.manual_seed(0)
    encoder, decoder = TinyEncoder().eval(), TinyDecoder().eval()
    adapter = Adapter(AdapterConfig(channels=(32, 64, 64, 64))).eval()
    with torch.no_grad():
        image, latent = torch.rand(1, 3, 24, 40), torch.randn(3, 4, 5, 2)
        got = Session(export_tiny(encoder, tmp_path / "e.onnx"), CPU, 0)(image=image)
        assert_equal(got[0], encoder(image))
        got = Session(export_tiny(decoder, tmp_path / "d.onnx"), CPU, 0)(latent=latent)
        assert_equal(got[0], decoder(latent))
        hint = torch.rand(1, 3, 64, 192)
        got = Session(export_adapter(adapter, tmp_path / "a.onnx"), CPU, 0)(image=hint)
        for ours, expected in zip(got, adapter(hint), strict=True):
            assert_equal(ours, expected)


def test_refuses(both, tmp_path):
    ours, theirs, folder = both
    with pytest.raises(ConfigError, match="exists; choose another name"):
        export_model(ours, folder)
    with pytest.raises(ConfigError, match="cannot take embeddings"):
        theirs.model.encode_text([torch.zeros(1, 5)], insert=lambda i, x: x)
    with pytest.raises(ValueError, match=r"clip_skip must lie in 1\.\.3, got 9"):
        theirs.model.encode_text([torch.zeros(1, 5)] * len(theirs.model.towers), 9)
    with pytest.raises(InputError, match=r"found no model\.json"):
        open_onnx(tmp_path)
    (tmp_path / "model.json").write_text('{"config": {}}')
    with pytest.raises(InputError, match="must say what was exported: KeyError"):
        open_onnx(tmp_path)
    with pytest.raises(InputError, match="must be an ONNX file, found none"):
        Session(tmp_path / "x.onnx", CPU, 0)
    (tmp_path / "x.onnx").write_bytes(b"junk")
    with pytest.raises(InputError, match="must be an ONNX model, got text"):
        Session(tmp_path / "x.onnx", CPU, 0)
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        Session(tmp_path / "x.onnx", CPU, 0, ours=True)
    (tmp_path / "x.onnx").write_bytes(sparse("values").SerializeToString())
    with pytest.raises(InputError, match="all data must lie in the file itself"):
        Session(tmp_path / "x.onnx", CPU, 0)
