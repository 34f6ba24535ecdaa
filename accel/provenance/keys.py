"""Who signs: a key and its certificates, made on this machine at first use, or one's own.

The chain is a root and a leaf, ECDSA on P-256, as C2PA readers refuse a certificate that signs
itself. It names no person: its subject is a random number of this installation. Nothing leaves the
machine. The leaf carries both uses that readers ask for, C2PA's own and e-mail protection.

Sources: C2PA technical specification 2.4, section 14.5 (certificate profile); RFC 5280.
"""

from __future__ import annotations

import datetime
import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from accel.core import ConfigError, read_file, user_folder
from accel.unfinished import Unfinished

MAX_PEM_BYTES = 1 << 20
CLAIM_SIGNING = "1.3.6.1.4.1.62558.2.1"  # c2pa-kp-claimSigning
# What a certificate must be for, one of these: e-mail protection, signing of documents, of claims.
USES = ("1.3.6.1.5.5.7.3.4", "1.3.6.1.5.5.7.3.36", CLAIM_SIGNING)
ROOT_DAYS, LEAF_DAYS, RENEW_DAYS = 3650, 730, 30
_ORGANISATION = "accel local installation"
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What signs a credential.

    certificates: PEM, the leaf first, then those that lead to `root`.
    root: PEM of the last of them; who trusts it, trusts what this identity signs. "" where the leaf
        came without its issuer.
    algorithm: as C2PA names it: es256, es384, es512, ps256 or ed25519.
    """

    certificates: str
    root: str
    algorithm: str
    key: bytes = field(repr=False)  # PEM

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the leaf, in hexadecimal."""
        leaf = x509.load_pem_x509_certificates(self.certificates.encode())[0]
        return leaf.fingerprint(hashes.SHA256()).hex()

    @property
    def serial(self) -> str:
        """The leaf's serial number in decimal, as readers of credentials print it."""
        return str(x509.load_pem_x509_certificates(self.certificates.encode())[0].serial_number)


def config_folder() -> Path:
    """Where keys lie: $ACCEL_HOME, or the user's configuration folder. It is not created here."""
    if home := os.environ.get("ACCEL_HOME"):
        return Path(home)
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or user_folder() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = user_folder() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME") or user_folder() / ".config")
    return base / "accel"


def local_identity(folder: Path | None = None) -> Identity:
    """Return this installation's identity; make it at first use, renew its leaf before it ends.

    folder: where it is kept; default `config_folder()`. All of it gets mode 0600, again if a copy
        or a restored backup has lost it.
    Raises ConfigError when what lies there is damaged, OSError when it cannot be written.
    """
    place = (folder or config_folder()) / "identity"
    if not place.exists():
        _make(place)
    _keep_private(place)
    root = certificates_of(place / "root.pem")[0]
    leaf = certificates_of(place / "leaf.pem")[0]
    if leaf.not_valid_after_utc - _now() < datetime.timedelta(days=RENEW_DAYS):
        key = _private_key(place / "root.key")
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise ConfigError("root.key must be the private key of root.pem, is not")
        _write_leaf(place, root, key)
    return own_identity(place / "leaf.pem", place / "leaf.pem", chain=place / "root.pem")


def own_identity(certificate: Path, key: Path, *, chain: Path | None = None) -> Identity:
    """Load an identity from PEM files: the leaf, perhaps with its chain, and its private key.

    Raises ConfigError unless the key belongs to the leaf and is of a kind that C2PA knows, and the
    leaf is valid now and for such signatures.
    """
    certificates = certificates_of(certificate) + (certificates_of(chain) if chain else [])
    private = _private_key(key)
    if private.public_key() != certificates[0].public_key():
        raise ConfigError(
            f"{key.name} must be the private key of the first certificate in {certificate.name}, "
            "is not"
        )
    if fault := _fault_of(certificates[0]):
        raise ConfigError(f"{certificate.name}: the certificate {fault}")
    for child, parent in pairwise(certificates):
        try:
            child.verify_directly_issued_by(parent)
        except (ValueError, TypeError, InvalidSignature) as error:
            raise ConfigError(
                f"{certificate.name}: each certificate must be issued by the next, "
                f"{_name_of(child)} is not by {_name_of(parent)}"
            ) from error
    last = certificates[-1]
    alone = len(certificates) == 1 and last.issuer != last.subject
    return Identity(
        certificates=pem_of(certificates), root="" if alone else pem_of([last]),
        algorithm=_algorithm(private, key),
        key=private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )  # fmt: skip


def certificates_of(path: Path) -> list[x509.Certificate]:
    """The certificates of a PEM file, in order; raises ConfigError where it holds none."""
    data = read_file(path, MAX_PEM_BYTES, "certificates in PEM")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise ConfigError(f"{path.name}: must hold certificates in PEM, does not") from error


def pem_of(certificates: Iterable[x509.Certificate]) -> str:
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in certificates)


def _fault_of(leaf: x509.Certificate) -> str:
    """Why no file can be signed with a certificate; "" where it can (section 14.5.1)."""
    now = _now()
    if leaf.not_valid_after_utc < now:
        return f"ran out on {leaf.not_valid_after_utc:%Y-%m-%d}"
    if leaf.not_valid_before_utc > now:
        return f"is valid from {leaf.not_valid_before_utc:%Y-%m-%d} on"
    try:
        found = {type(one.value): one.value for one in leaf.extensions}
    except ValueError as error:  # of a certificate that is not well formed
        return f"is damaged: {error}"
    limits, usage = found.get(x509.BasicConstraints), found.get(x509.KeyUsage)
    uses = found.get(x509.ExtendedKeyUsage, ())
    if isinstance(limits, x509.BasicConstraints) and limits.ca:
        return "is an authority's: those may sign certificates alone"
    if not isinstance(usage, x509.KeyUsage) or not usage.digital_signature:
        return "must have the key usage digitalSignature"
    if not {use.dotted_string for use in uses} & set(USES):  # type: ignore[attr-defined]
        return f"must have one of the extended key usages {', '.join(USES)}"
    if x509.AuthorityKeyIdentifier not in found and leaf.issuer != leaf.subject:
        return "must name its issuer's key (authority key identifier)"
    return ""


def _algorithm(key: PrivateKey, path: Path) -> str:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= 2048:
        return "ps256"
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    raise ConfigError(
        f"{path.name}: a signing key must be P-256, P-384, P-521, Ed25519 or RSA of 2048 bits"
    )


def _private_key(path: Path) -> PrivateKey:
    data = read_file(path, MAX_PEM_BYTES, "a key in PEM")
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path.name}: must hold an unencrypted private key in PEM") from error
    if not isinstance(key, PrivateKey):
        raise ConfigError(f"{path.name}: {type(key).__name__} is no kind of key that C2PA knows")
    return key


def _make(place: Path) -> None:
    """Make root and leaf beside their place, then move them there: never half a key."""
    place.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".identity-", dir=place.parent))  # mode 0700
    try:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _subject(f"accel root {secrets.token_hex(8)}")
        root = _issue(name, key.public_key(), name, key, days=ROOT_DAYS, is_root=True)
        _write_private(scratch / "root.key", _pem(key))
        _write_private(scratch / "root.pem", pem_of([root]).encode())
        _write_leaf(scratch, root, key)
        try:
            scratch.rename(place)
        except OSError:
            if not (place / "leaf.pem").exists():  # else another process was quicker: use its key
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_leaf(place: Path, root: x509.Certificate, root_key: ec.EllipticCurvePrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _subject(f"accel {secrets.token_hex(8)}")
    leaf = _issue(name, key.public_key(), root.subject, root_key, days=LEAF_DAYS)
    # Key and certificate in one file, so that a renewal replaces both or none.
    _write_private(place / "leaf.pem", _pem(key) + pem_of([leaf]).encode())


def _issue(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    days: int,
    is_root: bool = False,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - datetime.timedelta(minutes=5))  # clocks differ
        .not_valid_after(_now() + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .add_extension(_usage(is_root), critical=True)
    )
    if not is_root:
        uses = [ExtendedKeyUsageOID.EMAIL_PROTECTION, x509.ObjectIdentifier(CLAIM_SIGNING)]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(is_root: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_root, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, key_cert_sign=is_root, crl_sign=is_root,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _subject(name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANISATION),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )


def _name_of(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _keep_private(place: Path) -> None:
    """Take from others the right to read what lies in a folder; as far as the system has any."""
    for file in place.iterdir():
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode) and mode & 0o077:  # what a link leads to is another's
            with suppress(OSError):  # of another user, or on a disk without rights
                file.chmod(0o600)


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that was never readable by others, not even for a moment."""
    growing = Unfinished(path, 0o600)
    try:
        growing.path.write_bytes(content)
        os.replace(growing.path, path)
    finally:
        growing.path.unlink(missing_ok=True)  # after an error
        growing.close()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
