"""A trained model as a .dfm file: what is in it, what it gives, and that `accel swap` takes it."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch

from accel.cli import main
from accel.core import ConfigError, InputError
from accel.faces.align import invert, transform
from accel.faces.autoencoder import Autoencoder, AutoencoderConfig
from accel.faces.autoencoder_onnx import INPUT, OUTPUTS, to_onnx
from accel.faces.face_types import FaceType, crop_matrix
from accel.faces.templates import TEMPLATES
from accel.pipelines.dfl.export import export
from accel.pipelines.dfl.train import TrainConfig, train
from accel.pipelines.swap import SwapConfig
from accel.training.model_files import load_network
from accel.weights.dfl import read_weights, write_weights
from accel.weights.onnx import open_onnx
from tests.faces.test_onnx_swap import job_of, opened
from tests.pipelines.clips import write_clip
from tests.training.facesets import landmarks, workspace

SMALL = {"resolution": 64, "ae_dims": 6, "e_dims": 4, "d_dims": 4, "d_mask_dims": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root = workspace(tmp_path_factory.mktemp("export") / "workspace", 3)
    options = SMALL | {"archi": "df-ud", "face_type": "full"}
    train(root, TrainConfig(model="saehd", iterations=2, options=options, threads=1))
    return root


def model(archi):
    made = Autoencoder(AutoencoderConfig(archi=archi, **SMALL), torch.Generator().manual_seed(0))
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):  # new biases are zero, which would hide them
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return made.eval()


@pytest.mark.parametrize("kind", ["df", "liae"])
@pytest.mark.parametrize("flags", ["", "-u", "-d", "-t", "-c", "-ud", "-udtc"])
def test_onnx_runtime_gives_what_torch_gives(kind, flags):
    made, pictures = model(kind + flags), torch.rand(3, 3, 64, 64)
    network = open_onnx(to_onnx(made))
    with torch.no_grad():
        face, mask, mask_dst = made(pictures)
    given = network(**{INPUT: pictures.permute(0, 2, 3, 1).numpy()})
    for found, wanted in zip(given, (mask_dst, face, mask)):
        assert np.abs(found - wanted.permute(0, 2, 3, 1).numpy()).max() < 1e-4


def test_signature_is_that_of_dfm_files(trained, tmp_path):
    report = export(trained, tmp_path / "new.dfm")
    file = onnx.load(tmp_path / "new.dfm")
    assert [entry.version for entry in file.opset_import] == [12]
    assert [value.name for value in file.graph.input] == [INPUT]
    assert tuple(value.name for value in file.graph.output) == OUTPUTS
    shapes = [
        [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*file.graph.input, *file.graph.output)
    ]
    assert shapes == [["batch", 64, 64, c] for c in (3, 1, 3, 1)]
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert about["face_type"] == "full_face"
    assert about["iterations"] == "2"
    assert report["largest_difference"] < 1e-4
    assert report["bytes"] == (tmp_path / "new.dfm").stat().st_size


def test_the_swapper_takes_it(trained, tmp_path):
    export(trained, tmp_path / "new.dfm")
    swapper = opened(tmp_path / "new.dfm")
    assert swapper.size == 64
    (patch,) = swapper.swap([job_of()])
    assert patch.crop.shape == (3, 64, 64)
    assert torch.isfinite(patch.crop).all()


def test_swapping_with_it_needs_no_picture_of_the_face(trained, tmp_path):
    export(trained, tmp_path / "new.dfm")
    clip = write_clip(tmp_path / "clip.mp4", 3)
    command = ["swap", str(clip), str(tmp_path / "out.mp4"), "--device", "cpu"]
    assert main([*command, "--swapper", str(tmp_path / "new.dfm"), "--json", "-"]) == 0
    with pytest.raises(ConfigError, match="at least one picture of the face"):
        SwapConfig(swapper="network.onnx")
    assert main(command) == 2


def test_weights_are_those_that_were_saved(trained):
    network, iterations = load_network(trained / "model", "new", "saehd")
    assert iterations == 2
    assert network.config.archi == "df-ud"
    with torch.no_grad():
        face, _, _ = network(torch.rand(1, 3, 64, 64))
    assert 0 < face.mean() < 1


def test_the_command(trained, tmp_path, capsys):
    target = tmp_path / "new.dfm"
    assert main(["dfl", "export", str(trained), "--to", str(target), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["name"] == "new"
    assert {"seconds", "peak_memory_mb", "device", "versions"} <= set(report)
    assert main(["dfl", "export", str(trained), "--to", str(target)]) == 2
    assert "exists" in capsys.readouterr().err
    assert main(["dfl", "export", str(trained), "--to", str(target), "--overwrite"]) == 0
    assert "after 2 iterations" in capsys.readouterr().out


def test_refuses_what_cannot_be(trained, tmp_path):
    with pytest.raises(ConfigError, match=r"must end in \.dfm or \.onnx"):
        export(trained, tmp_path / "new.pth")
    with pytest.raises(ConfigError, match="the folder must exist"):
        export(trained, tmp_path / "nowhere" / "new.dfm")
    with pytest.raises(InputError, match="must hold a trained model other, found new_SAEHD"):
        export(trained, tmp_path / "new.dfm", name="other")
    with pytest.raises(
        InputError, match="must hold a trained model, found none; run `accel dfl train"
    ):
        export(trained / "data_src", tmp_path / "new.dfm")


def test_damaged_weights_leave_no_file(trained, tmp_path):
    path = trained / "model" / "new_SAEHD_inter.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(InputError, match=r"inter\.npy"):
            export(trained, tmp_path / "new.dfm")
    finally:
        path.write_bytes(whole)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["half_face", "midfull_face", "full_face", "head"])
def test_templates_of_face_types_are_cut_as_faces_are(kind):
    """The same five points, taken through the two types' crops of the same face."""
    points = landmarks(1000, FaceType.WHOLE)
    whole, other = (crop_matrix(points, FaceType(k), 1000) for k in ("whole_face", kind))
    moved = transform(other, transform(invert(whole), np.array(TEMPLATES["whole_face"]) * 1000))
    assert np.abs(moved - np.array(TEMPLATES[kind]) * 1000).max() < 2


def test_the_swapper_cuts_faces_as_the_model_was_trained(trained, tmp_path):
    export(trained, tmp_path / "new.dfm")
    assert opened(tmp_path / "new.dfm").template == "full_face"


def test_a_model_that_makes_rounding_large_is_exported_and_said_so(tmp_path):
    options = SMALL | {"archi": "liae-udtc", "face_type": "full"}
    root = workspace(tmp_path / "workspace", 1)
    train(root, TrainConfig(model="saehd", iterations=1, options=options, threads=1))
    for path in (root / "model").glob("new_SAEHD_*.npy"):
        if not path.name.endswith("opt.npy"):
            grown = {name: 2.5 * array for name, array in read_weights(path).items()}
            write_weights(path, grown)
    report = export(root, tmp_path / "new.dfm")
    assert report["largest_difference"] > 1e-4
    assert "rounding alone" in report["notes"][0]


def test_a_file_that_differs_for_no_such_reason_is_refused(trained, tmp_path, monkeypatch):
    def other(network, about):
        with torch.no_grad():
            network.decoder_src.out_conv.bias += 0.01
            content = to_onnx(network, about)
            network.decoder_src.out_conv.bias -= 0.01
        return content

    monkeypatch.setattr("accel.pipelines.dfl.export.to_onnx", other)
    with pytest.raises(InputError, match="the file must give the same, got a difference"):
        export(trained, tmp_path / "new.dfm")
    assert not (tmp_path / "new.dfm").exists()
