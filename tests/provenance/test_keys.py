"""The local identity: made once, private, renewed, refused when damaged."""

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from accel.core import ConfigError
from accel.provenance import keys
from accel.provenance.keys import CLAIM_SIGNING, config_folder, local_identity, own_identity


def test_is_made_once_and_kept(tmp_path):
    first = local_identity(tmp_path)
    assert local_identity(tmp_path) == first
    assert first.algorithm == "es256"
    assert len(first.fingerprint) == 64


def test_keys_and_certificates_are_the_owners_alone(tmp_path):
    before = os.umask(0)
    try:
        local_identity(tmp_path)
    finally:
        os.umask(before)
    for path in (tmp_path / "identity").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
    assert stat.S_IMODE((tmp_path / "identity").stat().st_mode) == 0o700


def test_leaf_carries_both_uses_and_names_no_one(tmp_path):
    leaf, root = x509.load_pem_x509_certificates(local_identity(tmp_path).certificates.encode())
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert {use.dotted_string for use in uses} == {"1.3.6.1.5.5.7.3.4", CLAIM_SIGNING}
    leaf.verify_directly_issued_by(root)
    assert len(leaf.subject.rfc4514_string()) < 80


def test_two_at_once_get_the_same_key(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: local_identity(tmp_path), range(4)))
    assert len({one.fingerprint for one in made}) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["identity"]


def test_a_renewal_that_was_killed_leaves_no_key_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "LEAF_DAYS", 10)
    local_identity(tmp_path)
    place = tmp_path / "identity"
    left = place / ".leaf.0123abcd.partial.pem"
    left.write_text("half a key")
    os.utime(left, (0, 0))
    monkeypatch.setattr(keys, "LEAF_DAYS", 730)
    local_identity(tmp_path)
    assert sorted(path.name for path in place.iterdir()) == ["leaf.pem", "root.key", "root.pem"]


def test_a_key_that_cannot_be_written_whole_leaves_nothing(tmp_path, monkeypatch):
    def full(old, new):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(keys.os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        local_identity(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_leaf_that_ends_soon_is_renewed_under_the_same_root(tmp_path, monkeypatch):
    monkeypatch.setattr(keys, "LEAF_DAYS", 10)
    first = local_identity(tmp_path)
    monkeypatch.setattr(keys, "LEAF_DAYS", 730)
    second = local_identity(tmp_path)
    assert second.fingerprint != first.fingerprint
    assert second.root == first.root
    assert local_identity(tmp_path) == second


def test_damage_is_named(tmp_path):
    local_identity(tmp_path)
    (tmp_path / "identity" / "leaf.pem").write_text("nonsense")
    with pytest.raises(ConfigError, match=r"leaf\.pem: must hold certificates"):
        local_identity(tmp_path)


def test_a_key_of_another_certificate_is_refused(tmp_path):
    local_identity(tmp_path)
    other = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "other.key"
    path.write_bytes(
        other.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ConfigError, match=r"other\.key must be the private key"):
        own_identity(tmp_path / "identity" / "leaf.pem", path)


def test_a_chain_in_the_wrong_order_is_refused(tmp_path):
    local_identity(tmp_path)
    other = tmp_path / "b"
    local_identity(other)
    leaf = tmp_path / "identity" / "leaf.pem"
    with pytest.raises(ConfigError, match="issued by the next"):
        own_identity(leaf, leaf, chain=other / "identity" / "root.pem")


def test_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("ACCEL_HOME", str(tmp_path / "here"))
    assert config_folder() == tmp_path / "here"
    assert not config_folder().exists()


def test_rights_that_a_copy_has_lost_are_taken_back(tmp_path):
    local_identity(tmp_path)
    for file in (tmp_path / "identity").iterdir():
        file.chmod(0o644)
    local_identity(tmp_path)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "identity").iterdir()} == {0o600}


@pytest.mark.parametrize(
    "make",
    [
        lambda: rsa.generate_private_key(65537, 2048),
        ed25519.Ed25519PrivateKey.generate,
        lambda: ec.generate_private_key(ec.SECP256R1()),
    ],
    ids=("rsa", "ed25519", "another"),
)
def test_a_leaf_is_not_renewed_with_a_key_that_is_not_the_roots(tmp_path, monkeypatch, make):
    """Of another kind it was an AssertionError; of the same kind, the good leaf was overwritten."""
    monkeypatch.setattr(keys, "LEAF_DAYS", 10)
    local_identity(tmp_path)
    leaf = (tmp_path / "identity" / "leaf.pem").read_bytes()
    (tmp_path / "identity" / "root.key").write_bytes(
        make().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    with pytest.raises(ConfigError, match=r"root\.key must be the private key of root\.pem"):
        local_identity(tmp_path)
    assert (tmp_path / "identity" / "leaf.pem").read_bytes() == leaf


def test_what_a_link_among_the_keys_leads_to_keeps_its_rights(tmp_path):
    other = tmp_path / "other"
    other.mkdir(mode=0o755)
    file = tmp_path / "file"
    file.touch(0o644)
    local_identity(tmp_path)
    (tmp_path / "identity" / "a").symlink_to(other)
    (tmp_path / "identity" / "b").symlink_to(file)
    (tmp_path / "identity" / "c").symlink_to("nowhere")
    local_identity(tmp_path)
    assert other.stat().st_mode & 0o777 == 0o755
    assert file.stat().st_mode & 0o777 == 0o644
