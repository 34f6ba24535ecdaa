"""Certificates of one's own, of every kind that people bring: signed with, or refused by name."""

from __future__ import annotations

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from PIL import Image

from accel.core import ConfigError
from accel.provenance.c2pa import Statement, read, sign
from accel.provenance.keys import USES, own_identity

KEYS = {
    "es256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "es384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "es512": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ps256": lambda: rsa.generate_private_key(65537, 2048),
}


def name(text):
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Some studio"),
                      x509.NameAttribute(NameOID.COMMON_NAME, text)])  # fmt: skip


def issue(subject, public, issuer, key, *, authority=False, uses=(USES[0],), begins=-1, days=90,
          signs=True, names_key=True):  # fmt: skip
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(not authority and signs, False, False, False, False, authority,
                          authority, False, False),
            critical=True,
        )
    )  # fmt: skip
    if names_key:
        issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
        made = made.add_extension(issued_by, critical=False)
    if uses and not authority:
        given = [x509.ObjectIdentifier(use) for use in uses]
        made = made.add_extension(x509.ExtendedKeyUsage(given), critical=False)
    longest = isinstance(key, ec.EllipticCurvePrivateKey) and key.key_size == 521
    digest = hashes.SHA512() if longest else hashes.SHA256()
    return made.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else digest)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def chain(folder, kind="es256", *, root=True, between=False, password=b"", form="PKCS8", **leaf):
    """Write chain.pem, key.pem and root.pem; return the first two."""
    folder.mkdir(parents=True, exist_ok=True)
    top, key, middle = KEYS[kind](), KEYS[kind](), KEYS[kind]()
    roots = issue("Root", top.public_key(), "Root", top, authority=True)
    parts, issuer = [], ("Root", top)
    if between:
        parts.append(issue("Middle", middle.public_key(), "Root", top, authority=True))
        issuer = "Middle", middle
    parts = [issue("Leaf", key.public_key(), *issuer, **leaf), *parts, *[roots] * root]
    (folder / "chain.pem").write_bytes(b"".join(map(pem, parts)))
    (folder / "root.pem").write_bytes(pem(roots))
    locked = serialization.BestAvailableEncryption(password) if password else None
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form),
            locked or serialization.NoEncryption(),
        )
    )  # fmt: skip
    return folder / "chain.pem", folder / "key.pem"


def signed(folder, identity):
    path = folder / "picture.png"
    Image.new("RGB", (16, 16), (90, 120, 60)).save(path)
    sign(path, Statement(task="generate"), identity)
    return path


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_signs(kind, tmp_path):
    own = own_identity(*chain(tmp_path, kind))
    assert own.algorithm == kind
    path = signed(tmp_path, own)
    assert read(path, anchors=[(tmp_path / "root.pem").read_text()]).state == "trusted"
    assert read(path).state == "valid"
    assert read(path).signer == "Leaf"


@pytest.mark.parametrize(
    "how",
    [
        {"between": True},
        {"between": True, "root": False},
        {"root": False},
        {"uses": USES[1:2]},
        {"uses": USES[2:]},
        {"form": "TraditionalOpenSSL"},
    ],
)
def test_chains_as_people_have_them(how, tmp_path):
    path = signed(tmp_path, own_identity(*chain(tmp_path, **how)))
    seen = read(path, anchors=[(tmp_path / "root.pem").read_text()])
    assert seen.state == "trusted"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"days": 0, "begins": -9}, "the certificate ran out on"),
        ({"begins": 3}, "the certificate is valid from"),
        ({"uses": ()}, "must have one of the extended key usages"),
        ({"uses": [ExtendedKeyUsageOID.SERVER_AUTH.dotted_string]}, "extended key usages"),
        ({"authority": True}, "is an authority's"),
        ({"signs": False}, "must have the key usage digitalSignature"),
        ({"names_key": False}, "must name its issuer's key"),
        ({"password": b"secret"}, "must hold an unencrypted private key"),
    ],
)
def test_what_cannot_sign_is_told_by_its_reason(how, said, tmp_path):
    with pytest.raises(ConfigError, match=said) as error:
        own_identity(*chain(tmp_path, **how))
    assert "\n" not in str(error.value)


def test_short_and_foreign_keys_are_refused(tmp_path, monkeypatch):
    makers = {
        "short": lambda: rsa.generate_private_key(65537, 1024),
        "other": lambda: ec.generate_private_key(ec.SECP256K1()),
    }
    monkeypatch.setattr("tests.provenance.test_own_certificates.KEYS", makers)
    for kind in makers:
        with pytest.raises(ConfigError, match="a signing key must be"):
            own_identity(*chain(tmp_path / kind, kind))


def test_certificates_and_keys_that_were_mixed_up(tmp_path):
    certificates, key = chain(tmp_path)
    with pytest.raises(ConfigError, match="must hold certificates in PEM"):
        own_identity(key, certificates)
    with pytest.raises(ConfigError, match="must hold an unencrypted private key"):
        own_identity(certificates, certificates)
    with pytest.raises(ConfigError, match="private key of the first certificate"):
        own_identity(certificates, chain(tmp_path / "other")[1])
