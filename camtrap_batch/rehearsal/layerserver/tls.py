"""A certificate of its own for the rehearsal server, for clients that insist on https."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import trustme


def server_context(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """What the server wraps connections with, and the file with the authority through which clients trust it.

    `certificate.pem` (the authority) and `key.pem` (key and certificate of the server, signed by it) are
    created in `folder` if they are missing; the authority's own key is not kept.
    """
    authority, server = folder / "certificate.pem", folder / "key.pem"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if authority.exists() and server.exists():
        try:
            context.load_cert_chain(authority if _is_key_alone(server) else server, server)
            return context, authority
        except ssl.SSLError:  # cut off, or from two servers: made again
            pass
    made = trustme.CA()
    issued = made.issue_cert("localhost", "127.0.0.1")
    with os.fdopen(os.open(server, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(issued.private_key_and_cert_chain_pem.bytes())
    made.cert_pem.write_to_path(str(authority))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server)
    return context, authority


def _is_key_alone(server: Path) -> bool:
    """Whether an earlier version made the folder: `certificate.pem` is the server's own, signed by itself."""
    return b"BEGIN CERTIFICATE" not in server.read_bytes()
