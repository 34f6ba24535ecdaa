"""Training a small model on drawn faces: it learns, stops, goes on, and survives what happens."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from accel.cli import main
from accel.cli.dfl.train import _Display
from accel.core import Cancel, ConfigError, InputError
from accel.faces.face_types import FaceType
from accel.faces.faceset_pak import pack_folder
from accel.pipelines.dfl.clear import clear_workspace
from accel.pipelines.dfl.made import LIST_NAME, made_in, remember
from accel.pipelines.dfl.train import TrainConfig, train
from accel.training import state
from accel.training.autoencoder import AutoencoderTrainer
from accel.weights import dfl
from accel.weights.pickles import load_pickle
from tests.training.facesets import face_file, workspace

ROOT = Path(__file__).parents[3]
TINY = {"resolution": 64, "archi": "df-ud", "ae_dims": 8, "e_dims": 4, "d_dims": 4, "seed": 3}


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return workspace(tmp_path_factory.mktemp("train") / "workspace")


def another(faces, tmp_path):
    """A workspace of its own on the same faces."""
    root = tmp_path / "workspace"
    root.mkdir(parents=True, exist_ok=True)
    for side in ("data_src", "data_dst"):
        if not (root / side).exists():
            shutil.copytree(faces / side, root / side)
    return root


def config(iterations, **changes):
    options = TINY | {"lr_dropout": True} | changes.pop("options", {})
    return TrainConfig(
        model="saehd", iterations=iterations, options=options, threads=1, device="cpu", **changes
    )


def model_bytes(root):
    """All that a run leaves but pictures and the file that holds options and history."""
    return {path.name: path.read_bytes() for path in sorted((root / "model").glob("*.npy"))}


@pytest.mark.parametrize("optimiser", ["adabelief", "rmsprop"])
def test_going_on_is_byte_equal_to_never_having_stopped(faces, tmp_path, optimiser):
    options = {"optimiser": optimiser, "true_face": 0.01, "flip_src": True, "uniform_yaw": True}
    whole, parts = another(faces, tmp_path / "a"), another(faces, tmp_path / "b")
    train(whole, config(6, options=options))
    train(parts, config(3, options=options, workers=3))
    # All that is not said again comes from the model's own file.
    train(parts, TrainConfig(model="saehd", iterations=6, threads=1, device="cpu"))
    assert model_bytes(whole) == model_bytes(parts)
    assert len(model_bytes(whole)) == 7
    data = [(root / "model" / "new_SAEHD_data.dat").read_bytes() for root in (whole, parts)]
    assert data[0] == data[1]
    # In a set the prefixes would come in another order in every process.
    memory = load_pickle(model_bytes(whole)["new_SAEHD_src_dst_opt.npy"])
    prefixes = list(dict.fromkeys(name.partition("_")[0] for name in memory if name[:5] != "iters"))
    assert prefixes == {"adabelief": ["ms", "vs"], "rmsprop": ["acc"]}[optimiser]


@pytest.mark.slow
def test_quick96_goes_on_after_being_killed(faces, tmp_path):
    whole, parts = another(faces, tmp_path / "a"), another(faces, tmp_path / "b")
    settings = {"threads": 1, "device": "cpu"}
    train(whole, TrainConfig(iterations=6, **settings))
    train(parts, TrainConfig(iterations=3, **settings))
    command = [
        sys.executable, "-m", "accel", "dfl", "train", str(parts),
        "--iterations", "1000", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        running.stderr.readline()  # it has done a step
        running.kill()
    train(parts, TrainConfig(iterations=6, **settings))
    assert model_bytes(whole) == model_bytes(parts)
    assert set(model_bytes(whole)) == {
        f"new_Quick96_{part}.npy"
        for part in ("encoder", "inter", "decoder_src", "decoder_dst", "src_dst_opt")
    }


def test_it_learns(faces, tmp_path):
    root = another(faces, tmp_path)
    report = train(root, config(60, options={"lr": 2e-3, "lr_dropout": False}))
    history = np.array(dfl.read_data(root / "model" / "new_SAEHD_data.dat")["loss_history"])
    assert history.shape == (60, 2)
    assert (history[-10:].mean(0) < 0.75 * history[:3].mean(0)).all()
    assert report["iterations"] == report["steps"] == 60
    assert report["finished"]
    for name in ("preview", "loss_curve"):
        picture = cv2.imread(report[name])
        assert picture is not None
        assert picture.std() > 10


def test_files_are_deepfacelabs(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(2, options={"optimiser": "rmsprop"}, name="mine"))
    folder = root / "model"
    encoder = load_pickle((folder / "mine_SAEHD_encoder.npy").read_bytes())
    assert encoder["down1/downs_0/conv1/weight:0"].shape == (5, 5, 3, 4)
    memory = load_pickle((folder / "mine_SAEHD_src_dst_opt.npy").read_bytes())
    assert memory["iters:0"] == 2
    assert memory["iters:0"].dtype == np.int64
    assert memory["acc_encoder/down1/downs_0/conv1/weight_0:0"].shape == (5, 5, 3, 4)
    assert len(memory) == 1 + sum(
        len(load_pickle(path.read_bytes()))
        for path in folder.glob("mine_SAEHD_*coder*.npy")
    ) + len(load_pickle((folder / "mine_SAEHD_inter.npy").read_bytes()))  # fmt: skip
    data = load_pickle((folder / "mine_SAEHD_data.dat").read_bytes())
    assert data["iter"] == 2
    assert data["options"]["face_type"] == "f"
    assert data["options"]["adabelief"] is False
    assert dfl.find_models(folder) == [("mine", "SAEHD")]


def test_a_model_of_deepfacelab_is_taken_up(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(2))
    folder = root / "model"
    path = folder / "new_SAEHD_data.dat"
    data = dfl.read_data(path)
    options = {k: v for k, v in data["options"].items() if not k.startswith("accel")}
    dfl.write_data(path, {"iter": 2, "options": options, "loss_history": [[1.0, 2.0]] * 2})
    (folder / "new_SAEHD_src_dst_opt.npy").unlink()
    report = train(root, TrainConfig(model="saehd", iterations=3, threads=1))
    assert report["iterations"] == 3
    assert "begin anew" in report["notes"][0]
    assert report["options"]["network"]["e_dims"] == 4


def test_options_of_deepfacelab_that_mean_nothing_here_are_kept(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(1))
    path = root / "model" / "new_SAEHD_data.dat"
    data = dfl.read_data(path)
    theirs = {"target_iter": 500_000, "autobackup_hour": 4, "session_name": "", "usefp16": False}
    data["options"] |= theirs | {"pretrain": True, "random_flip": True}
    dfl.write_data(path, data)
    report = train(root, config(2))
    assert "was being pre-trained; it goes on from iteration 1 with these" in report["notes"][0]
    after = dfl.read_data(path)["options"]
    assert {name: after.get(name) for name in theirs} == theirs
    assert "pretrain" not in after
    assert not train(root, config(3))["notes"]


def test_weights_without_their_data_are_not_passed_over(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(1, name="her"))
    (root / "model" / "her_SAEHD_data.dat").rename(tmp_path / "her_SAEHD_data.dat")
    before = model_bytes(root)
    for name in ("", "her"):  # not named, a model `new` of the usual shape would begin
        with pytest.raises(InputError, match=r"must hold her_SAEHD_data\.dat beside her_SAEHD_enc"):
            train(root, config(2, name=name))
    assert model_bytes(root) == before
    assert train(root, config(1, name="mine"))["iterations"] == 1


def test_a_total_that_is_reached_already_is_told(faces, tmp_path):
    root = another(faces, tmp_path)
    assert not train(root, config(2))["notes"]
    notes = train(root, config(1))["notes"]
    assert notes == ["model new has 2 iterations, 1 were asked for in total; ask for more to go on"]


def test_clearing_takes_what_was_made_and_leaves_what_was_brought(faces, tmp_path):
    root = another(faces, tmp_path)
    (root / "model").mkdir()
    (root / "model" / "old_SAEHD_encoder.npy").write_bytes(b"brought along")
    train(root, config(2, backup_hours=1e-9, name="new"))
    assert (root / "model" / "new_SAEHD_autobackups" / "01" / "new_SAEHD_inter.npy").is_file()
    clear_workspace(root, parts=("model",), really=True)
    left = [path.name for path in (root / "model").rglob("*") if path.is_file()]
    assert left == ["old_SAEHD_encoder.npy"]


def test_cancelled_it_saves_and_says_so(faces, tmp_path):
    root, cancel = another(faces, tmp_path), Cancel()

    def progress(event):
        if event.stage == "train" and event.done == 2:
            assert event.loss_src > 0
            cancel.set()

    report = train(root, config(50), progress=progress, cancel=cancel)
    assert report["cancelled"]
    assert not report["finished"]
    assert dfl.read_data(root / "model" / "new_SAEHD_data.dat")["iter"] == 2


def test_ctrl_c_saves(faces, tmp_path):
    root = another(faces, tmp_path)

    def progress(event):
        if event.stage == "train" and event.done == 3:
            os.kill(os.getpid(), signal.SIGINT)

    report = train(root, config(50), progress=progress)
    assert report["cancelled"]
    assert report["iterations"] == 3
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_full_disk_leaves_the_last_save(faces, tmp_path, monkeypatch):
    root = another(faces, tmp_path)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state.os, "fsync", full)
    with pytest.raises(ConfigError, match="there is no earlier save"):
        train(root, config(1))
    monkeypatch.undo()
    train(root, config(2))
    before = model_bytes(root)
    monkeypatch.setattr(state.os, "fsync", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*the last save is intact"):
        train(root, config(3))
    assert model_bytes(root) == before
    monkeypatch.undo()
    assert train(root, config(3))["iterations"] == 3


def test_a_disk_that_is_full_for_a_while_stops_no_training(faces, tmp_path, monkeypatch, capsys):
    """Autosaves and backups that fail are told of and tried again: hours of steps are worth it."""
    root, told, is_full = another(faces, tmp_path), [], False
    real = os.fsync

    def flush(handle):
        if is_full:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(state.os, "fsync", flush)
    train(root, config(1))
    before = model_bytes(root)
    show = _Display()

    def progress(event):
        nonlocal is_full
        show(event)
        if event.stage == "train":
            told.append((event.done, event.warning, model_bytes(root) == before))
            is_full = event.done < 4

    report = train(root, config(5, save_minutes=1e-9, backup_hours=1e-9), progress=progress)
    assert [(done, bool(warning), kept) for done, warning, kept in told] == [
        (2, False, True), (3, True, True), (4, True, True), (5, False, False),
    ]  # fmt: skip
    assert "No space left on device); the last save is intact; the training goes on" in told[1][1]
    assert report["iterations"] == 5
    assert [note for note in report["notes"] if "tries again" in note] == [
        f"{told[1][1]} (iteration 2)"
    ]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" ")[0] for line in lines if "sav" in line] == ["warning:", "it"]
    assert dfl.read_data(root / "model" / "new_SAEHD_data.dat")["iter"] == 5


def test_a_folder_that_cannot_be_written_is_told_before_a_step(faces, tmp_path, monkeypatch):
    root = another(faces, tmp_path)
    train(root, config(1))
    real = os.access
    denied = lambda path, mode: Path(path) != root / "model" and real(path, mode)  # noqa: E731
    monkeypatch.setattr("accel.pipelines.dfl.train_run.os.access", denied)
    steps = []
    with pytest.raises(ConfigError, match="model: must be a folder that can be written"):
        train(root, config(2), progress=lambda event: steps.append(event.stage))
    assert "train" not in steps


def test_a_list_that_was_cut_short_loses_no_later_name(tmp_path):
    (tmp_path / "one.npy").touch()
    (tmp_path / LIST_NAME).write_text("half.n")
    remember(tmp_path, ["one.npy"])
    assert tmp_path / "one.npy" in made_in(tmp_path)


def test_a_training_that_comes_apart_leaves_the_last_save(faces, tmp_path, monkeypatch):
    root = another(faces, tmp_path)
    train(root, config(2))
    before, step = model_bytes(root), AutoencoderTrainer.step

    def apart(trainer, *sides):
        with torch.no_grad():
            next(trainer.model.parameters()).fill_(float("nan"))
        return step(trainer, *sides)

    monkeypatch.setattr(AutoencoderTrainer, "step", apart)
    with pytest.raises(ConfigError, match="must be finite, got nan and nan at iteration 3"):
        train(root, config(5))
    # A save that is due just then is none.
    monkeypatch.setattr("accel.pipelines.dfl.train_run.math.isfinite", lambda loss: True)
    with pytest.raises(ConfigError, match=r"weights of encoder must be finite to be saved"):
        train(root, config(3))
    assert model_bytes(root) == before
    monkeypatch.undo()
    assert train(root, config(3))["iterations"] == 3


def test_a_preview_that_cannot_be_written_stops_no_training(faces, tmp_path, monkeypatch):
    root = another(faces, tmp_path)

    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("accel.pipelines.dfl.train_run.write_whole", full)
    report = train(root, config(2))
    assert report["iterations"] == 2
    assert model_bytes(root)
    assert any("preview.png: not written (No space left" in note for note in report["notes"])
    assert not list((root / "model").glob("*.png*"))


def test_a_finished_training_is_left_as_it_is(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(2))
    before = model_bytes(root)
    report = train(root, config(2))
    assert (report["steps"], report["saves"]) == (0, 0)
    assert model_bytes(root) == before


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"resolution": 96}, "resolution 64, got 96"),
        ({"archi": "liae-ud"}, "archi df-ud, got liae-ud"),
        ({"face_type": "whole"}, "face_type full_face, got whole_face"),
    ],
)
def test_a_model_of_another_shape_is_refused(faces, tmp_path, options, why):
    root = another(faces, tmp_path)
    train(root, config(1))
    with pytest.raises(ConfigError, match=why):
        train(root, TrainConfig(model="saehd", iterations=2, options=options))


@pytest.mark.parametrize("archi", ["liae-ud", "df-udt", "liae-udtc"])
def test_architectures_and_every_option(faces, tmp_path, archi):
    everything = {
        "archi": archi, "eyes_mouth": True, "blur_out_mask": True, "uniform_yaw": True,
        "face_style": 1.0, "background_style": 2.0, "clip": True, "masked": False, "flip_src": True,
        "true_face": 0.01 if archi.startswith("df") else 0.0,
    }  # fmt: skip
    root = another(faces, tmp_path)
    report = train(root, config(2, options=everything))
    assert np.isfinite([report["loss_src"], report["loss_dst"]]).all()
    report = train(root, config(3, options=everything | {"warp": False}))
    assert report["iterations"] == 3


def test_without_warp_liae_keeps_what_both_share(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(1, options={"archi": "liae-ud"}))
    before = model_bytes(root)
    train(root, config(2, options={"archi": "liae-ud", "warp": False}))
    after = model_bytes(root)
    assert after["new_SAEHD_inter_AB.npy"] == before["new_SAEHD_inter_AB.npy"]
    assert after["new_SAEHD_inter_B.npy"] != before["new_SAEHD_inter_B.npy"]


def test_bfloat16_is_close_and_keeps_weights_exact(faces, tmp_path):
    exact, half = another(faces, tmp_path / "a"), another(faces, tmp_path / "b")
    reports = [
        train(root, config(3, precision=precision, options={"true_face": 0.01}))
        for root, precision in ((exact, "fp32"), (half, "bf16"))
    ]
    assert reports[1]["loss_src"] == pytest.approx(reports[0]["loss_src"], rel=0.03)
    assert (
        dfl.read_weights(half / "model" / "new_SAEHD_encoder.npy")[
            "down1.downs_0.conv1.weight"
        ].dtype
        == torch.float32
    )


def test_fp16_needs_a_gpu(faces):
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device"):
        train(faces, config(1, precision="fp16"))


# --- facesets that are not as they should be ----------------------------------------------------


def test_an_empty_aligned_folder(tmp_path):
    for side in ("src", "dst"):
        (tmp_path / f"data_{side}" / "aligned").mkdir(parents=True)
    with pytest.raises(InputError, match="must hold aligned faces, found none"):
        train(tmp_path, config(1))


def test_damaged_faces_are_left_out_and_told(tmp_path):
    root = workspace(tmp_path / "w", 3)
    aligned = root / "data_src" / "aligned"
    whole = (aligned / "00000.jpg").read_bytes()
    (aligned / "00000.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (aligned / "a.jpg").write_bytes(b"no picture")
    (aligned / "b.jpg").write_bytes(
        cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    )
    (aligned / "c.jpg").write_bytes(face_file(kind=FaceType.HALF))
    report = train(root, config(1))
    assert report["faces"] == {"src": 2, "dst": 3}
    assert "4 faces" in report["notes"][0]


def test_a_faceset_of_too_small_a_type(tmp_path):
    root = workspace(tmp_path / "w", 2, kind=FaceType.HALF)
    with pytest.raises(InputError, match="trained on full_face or larger, got half_face"):
        train(root, config(1))


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"iterations": 0}, "iterations must be 1 or more"),
        ({"model": "amp"}, "model must be one of quick96, saehd"),
        ({"name": "a_b"}, "plain word"),
        ({"name": "../x"}, "plain word"),
        ({"save_minutes": 0}, "save_minutes must be above 0"),
        ({"workers": 0}, "workers must be 1 or more"),
        ({"backup_hours": -1}, "backup_hours must be 0 or more"),
    ],
)
def test_refuses_settings_that_cannot_be(values, why):
    with pytest.raises(ConfigError, match=why):
        TrainConfig(**values)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"batch": 0}, "batch must lie in"),
        ({"resolution": 128}, "quick96 has a fixed shape"),
        ({"true_face": 0.1}, "quick96 has no true_face"),
        ({"depth": 3}, "training has no option depth"),
        ({"lr": 0}, "lr must lie above 0"),
    ],
)
def test_refuses_options_that_cannot_be(faces, options, why):
    with pytest.raises(ConfigError, match=why):
        train(faces, TrainConfig(options=options))


# --- page and command ---------------------------------------------------------------------------


def test_the_page_follows_the_training(faces, tmp_path):
    root, seen = another(faces, tmp_path), []

    def fetch(url, host=None):
        request = urllib.request.Request(url, headers={"Host": host} if host else {})
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.read()

    def progress(event):
        if event.stage != "train" or seen:
            return
        state = json.loads(fetch(event.page + "state.json"))
        seen.append(state["text"])
        assert fetch(event.page + "preview.png?1")[:4] == b"\x89PNG"
        assert b"<img" in fetch(event.page)
        for bad in ({"url": event.page + "model"}, {"url": event.page, "host": "evil.example:80"}):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(**bad)

    train(root, config(2, preview_port=0), progress=progress)
    assert seen[0].startswith("iteration 1 of 2 · loss src ")


def test_the_command(faces, tmp_path, capsys):
    root = another(faces, tmp_path)
    command = [
        "dfl", "train", str(root), "--model", "saehd", "--iterations", "2", "--resolution", "64",
        "--archi", "df-ud", "--ae-dims", "8", "--e-dims", "4", "--d-dims", "4", "--threads", "1",
        "--flip-src", "--no-flip-dst", "--device", "cpu",
    ]  # fmt: skip
    assert main([*command, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["iterations"] == 2
    assert report["device"] == "cpu: 1 threads"
    assert (report["options"]["flip_src"], report["options"]["flip_dst"]) == (True, False)
    assert main(command) == 0
    assert "model new, 2 iterations (0 now" in capsys.readouterr().out
    assert main([*command, "--d-dims", "6"]) == 2
    assert "model new has d_dims 4, got 6" in capsys.readouterr().err


def test_a_model_that_nobody_names_is_the_one_saved_last(faces, tmp_path):
    root = another(faces, tmp_path)
    train(root, config(1, name="her"))
    assert train(root, config(2))["name"] == "her"
    train(root, config(1, name="other"))
    os.utime(root / "model" / "her_SAEHD_data.dat", (2e9, 2e9))
    report = train(root, config(3))
    assert (report["name"], report["iterations"]) == ("her", 3)
    assert {path.name.partition("_")[0] for path in (root / "model").glob("*.npy")} == {
        "her", "other",
    }  # fmt: skip


def test_what_is_wrong_with_a_model_is_said_before_its_faces_are_read(faces, tmp_path, monkeypatch):
    root = another(faces, tmp_path)
    train(root, config(1))
    (root / "model" / "new_SAEHD_inter.npy").write_bytes(b"damaged")
    monkeypatch.setattr("accel.pipelines.dfl.train.load_faces", None)
    with pytest.raises(InputError, match=r"new_SAEHD_inter\.npy"):
        train(root, config(2))


def test_a_pak_counts_and_not_the_pictures_beside_it(faces, tmp_path):
    root = another(faces, tmp_path)
    pack_folder(root / "data_src" / "aligned")
    (root / "data_src" / "aligned" / "00000.jpg").unlink()
    report = train(root, config(1))
    assert report["faces"]["src"] == report["faces"]["dst"]
    assert any("faceset.pak is used, and not the 5 pictures" in note for note in report["notes"])


def test_the_command_asks_for_what_is_open(faces, tmp_path, capsys, monkeypatch):
    root = another(faces, tmp_path)
    shape = ["64", "", "df-ud", "8", "4", "4", ""]
    answers = ["saehd", "1", *shape, "2", "y", "n", "", "", "y", "y", "rmsprop", "y", "", "0.1"]
    answers += ["0.5", "8", "4", "0.01", "1", "2", "lct", "y"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(answers)))
    command = ["dfl", "train", str(root), "--threads", "1", "--device", "cpu", "--interactive"]
    assert main([*command, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    options = json.loads(out)["options"]
    assert (options["network"]["archi"], options["network"]["d_mask_dims"]) == ("df-ud", 2)
    wanted = {
        "batch": 2, "flip_src": True, "flip_dst": False, "uniform_yaw": False, "masked": True,
        "eyes_mouth": True, "blur_out_mask": True, "optimiser": "rmsprop", "lr_dropout": True,
        "warp": True, "hsv": 0.1, "gan": 0.5, "gan_patch": 8, "gan_dims": 4, "true_face": 0.01,
        "face_style": 1.0, "background_style": 2.0, "color": "lct", "clip": True,
    }  # fmt: skip
    assert {name: options[name] for name in wanted} == wanted
    assert "resolution: 64..640, of a new saehd model [128]: " in err
    # What is saved is offered, the shape of a saved model is not asked for.
    monkeypatch.setattr(sys, "stdin", io.StringIO("saehd\n2\n"))
    assert main([*command, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["options"] == options
    assert "resolution" not in err
    assert "batch: pictures of each person a step [2]: " in err
    # Nor is what the answers before leave without a meaning.
    monkeypatch.setattr(sys, "stdin", io.StringIO("saehd\n1\n64\n\nliae\n8\n4\n4\n"))
    assert main([*command, "--name", "other", "--json", "-"]) == 0
    err = capsys.readouterr().err
    assert "gan: let an adversary ask for detail" in err
    assert not any(f"{name}: " in err for name in ("gan-patch", "gan-dims", "true-face"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main(command[:-1]) == 2
    assert "--iterations must say" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_being_told_to_stop_saves(faces, tmp_path, number):
    root = another(faces, tmp_path)
    command = [
        sys.executable, "-m", "accel", "dfl", "train", str(root), "--model", "saehd",
        "--iterations", "100000", "--resolution", "64", "--ae-dims", "8", "--e-dims", "4",
        "--d-dims", "4", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        running.stderr.readline()
        time.sleep(0.3)
        running.send_signal(number)
        out, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "stopped and saved" in out
    assert dfl.read_data(root / "model" / "new_SAEHD_data.dat")["iter"] > 0
