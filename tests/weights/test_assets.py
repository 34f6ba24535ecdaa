"""Embedded files are what the manifest says."""

import json

import pytest

from accel.core import InputError
from accel.weights import assets


def test_every_embedded_file_is_as_shipped():
    found = assets.verify_assets()
    assert len(found) >= 8
    assert set(found.values()) == {""}


def test_every_embedded_file_has_a_licence_and_an_origin():
    folder = assets.asset("canonical_face_model.obj").parent
    rows = assets.manifest()
    listed = {p.name for p in folder.iterdir() if p.is_file()} - {assets.MANIFEST}
    assert listed == set(rows)
    assert all(row["licence"] and row["origin"] for row in rows.values())


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"canonical_face_model\.obj.*got 'nose\.onnx'"):
        assets.asset("nose.onnx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    row = {"name": "a.bin", "bytes": 3, "licence": "x", "origin": "y"}
    row["sha256"] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc"
    (tmp_path / assets.MANIFEST).write_text(json.dumps({"files": [row]}))
    monkeypatch.setattr(assets, "_folder", lambda: tmp_path)
    assets._fault.cache_clear()
    yield tmp_path
    assets._fault.cache_clear()


def test_a_changed_file_is_refused(folder):
    (folder / "a.bin").write_bytes(b"abd")
    with pytest.raises(InputError, match="another sha256"):
        assets.asset("a.bin")


def test_a_missing_file_is_refused(folder):
    with pytest.raises(InputError, match="cannot be read"):
        assets.asset("a.bin")


def test_a_good_file_is_found(folder):
    (folder / "a.bin").write_bytes(b"abc")
    assert assets.asset("a.bin") == folder / "a.bin"


def test_only_an_embedded_file_as_it_was_shipped_needs_no_check(folder, tmp_path_factory):
    own = folder / "a.bin"
    own.write_text("abc")
    other = tmp_path_factory.mktemp("other") / "a.bin"
    other.write_text("abc")
    assert assets.is_shipped(own)
    assert not assets.is_shipped(other)
    assert not assets.is_shipped(folder / "b.bin")
    assert not assets.is_shipped(b"abc")
    assets._fault.cache_clear()
    own.write_text("abd")
    assert not assets.is_shipped(own)
