"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """Files of an authority, and of a certificate that it signed."""

    ca_file: str
    cert: str
    key: str

    def section(self) -> dict[str, str]:
        """The block `security` of a cluster file."""
        return {"ca_file": self.ca_file, "cert": self.cert, "key": self.key}

    def options(self) -> list[str]:
        """Options of `dask scheduler` and `dask worker`."""
        return ["--tls-ca-file", self.ca_file, "--tls-cert", self.cert, "--tls-key", self.key]


def make_certificates(folder: Path, name: str) -> Certificates:
    """A new authority `name` and a certificate of it."""
    ca, ca_key = folder / f"{name}-ca.pem", folder / f"{name}-ca-key.pem"
    cert, key, request = (folder / f"{name}-{part}.pem" for part in ("cert", "key", "request"))
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subject = f"/CN={name}"
    for command in (
        ["req", "-x509", *new_key, "-subj", f"{subject}-ca", "-days", "2", "-keyout", ca_key, "-out", ca],
        ["req", *new_key, "-subj", subject, "-keyout", key, "-out", request],
        ["x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-days", "2", "-out", cert],
    ):
        subprocess.run(["openssl", *map(str, command)], check=True, capture_output=True, timeout=30)
    return Certificates(str(ca), str(cert), str(key))
