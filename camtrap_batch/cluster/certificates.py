"""A certificate for the lifetime of one cluster, without which nobody gets in.

Whoever reaches a Dask scheduler, a worker or a nanny can run code there; on a shared machine, that is
everybody with a login. So all parts of a cluster that we start speak TLS, and trust a single certificate,
made when the cluster starts. It is kept, with its key, in a folder that nobody else can open, and is deleted
with the cluster.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from camtrap_batch.cluster.settings import Tls
from camtrap_batch.errors import ClusterError

_NAME = "camtrap"
_LIFE = dt.timedelta(days=366)
_CLOCKS_DIFFER = dt.timedelta(days=1)


def make_certificate() -> bytes:
    """A new private key and its self-signed certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())  # faster than RSA to make, and in handshakes
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    now = dt.datetime.now(dt.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = dict.fromkeys(
        (
            "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign",
            "encipher_only", "decipher_only",
        ),
        False,
    )  # fmt: skip
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(_NAME)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, **usage), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + certificate.public_bytes(serialization.Encoding.PEM)


@contextmanager
def temporary_certificate(parent: Path | None = None) -> Iterator[Tls]:
    """A new certificate in a private folder, until the block ends.

    Parameters
    ----------
    parent : where the folder is created; None: where temporary files go

    Raises
    ------
    ClusterError
        Nothing can be written there.
    """
    try:
        if parent is not None:
            parent.mkdir(parents=True, exist_ok=True)
        folder = Path(mkdtemp(prefix=".camtrap-tls-", dir=parent))  # 0700
        file = folder / "camtrap.pem"
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as pem:
            pem.write(make_certificate())
    except OSError as problem:
        raise ClusterError(
            f"{problem.filename or parent}: {problem.strerror} (where the cluster's certificate is kept)"
        ) from None
    try:
        yield Tls(ca_file=str(file), cert=str(file), key=str(file))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
