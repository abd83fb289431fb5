"""Kind address: a cluster that somebody else started."""

from __future__ import annotations

import json
import re
import socket
import ssl
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from camtrap_batch.cluster.sections import DaskCluster, Opened, Wait
from camtrap_batch.errors import ClusterError, ClusterUnreachable

if TYPE_CHECKING:
    from distributed import Client

_ADDRESS = re.compile(r"(tcp|tls|wss?|ucx)://.+:\d+")
_HELLO_S = 3.0  # a Dask server says hello as soon as somebody has connected
_BETWEEN_TRIES_S = 0.5


class Address(DaskCluster):
    kind: Literal["address"] = Field("address", description="a cluster that is running already")
    address: str | None = Field(None, description="address of its scheduler, such as tcp://host:8786")
    scheduler_file: str | None = Field(None, description="file that its scheduler wrote; instead of address")
    connect_s: Wait = Field(10, description="seconds to wait until the scheduler answers")
    wait_s: Wait = Field(60, description="seconds to wait for scheduler_file, and for a needed worker")

    @field_validator("address")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is not None and not _ADDRESS.fullmatch(value):
            raise ValueError(f"{value!r}: should look like tcp://host:8786")
        return value

    @model_validator(mode="after")
    def _one(self) -> Address:
        if (self.address is None) == (self.scheduler_file is None):
            raise ValueError("give either address or scheduler_file")
        return self

    @contextmanager
    def open(self) -> Opened:
        address = self.address or _read_address(Path(str(self.scheduler_file)), self.wait_s)
        with connect(address, min(self.connect_s, self.wait_s)) as client:
            yield client


def connect(address: str, timeout_s: float) -> Client:
    """A client of the scheduler at `address`, with the certificates that Dask's settings name.

    Raises
    ------
    ClusterError
        Nobody answers, or the answer is wrong: no TLS, another authority, no or a wrong certificate.
    """
    from distributed import Client
    from distributed.security import Security

    security: Any = Security()
    secure = address.startswith(("tls://", "wss://"))
    if secure and not security.tls_ca_file:
        raise ClusterError(
            f"{address}: needs `security` in the cluster file: ca_file, cert and key (or Dask's own settings "
            "distributed.comm.tls)"
        )
    if security.require_encryption and not secure:
        raise ClusterError(f"{address}: not encrypted, but there is `security`; should be tls://host:8786")
    if address.startswith(("tcp://", "tls://")):
        _say_hello(address, security, timeout_s)
    try:
        return Client(address, security=security, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError, RuntimeError) as problem:
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ClusterUnreachable(f"no scheduler answers at {address}: {reason}") from None


def _say_hello(address: str, security: Any, timeout_s: float) -> None:
    """Find out what is wrong with a connection, which Dask itself only retries until time is up."""
    scheme, _, rest = address.partition("://")
    host, _, port = rest.rpartition(":")
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s) as plain:
                plain.settimeout(min(_HELLO_S, timeout_s))
                if scheme == "tls":
                    _say_hello_in_tls(address, plain, security)
                elif not _hears(plain):
                    raise ClusterError(
                        f"{address}: something answers that is not a Dask scheduler; if it "
                        f"requires TLS, give `security` and tls://{rest}"
                    )
            return
        except (OSError, OverflowError) as problem:
            if time.monotonic() + _BETWEEN_TRIES_S >= deadline or isinstance(problem, socket.gaierror):
                reason = problem.strerror or str(problem) if isinstance(problem, OSError) else str(problem)
                raise ClusterUnreachable(f"no scheduler answers at {address}: {reason}") from None
        time.sleep(_BETWEEN_TRIES_S)


def _say_hello_in_tls(address: str, plain: socket.socket, security: Any) -> None:
    files = f"{security.tls_client_cert} and {security.tls_client_key} (security.cert, security.key)"
    try:
        context = security.get_connection_args("client")["ssl_context"]
    except ssl.SSLError as problem:
        raise ClusterError(
            f"{files} or {security.tls_ca_file} (security.ca_file): no certificate that matches its key:  "
            f"{_short(problem)}"
        ) from None
    except OSError as problem:
        raise ClusterError(f"{problem.filename or files}: {problem.strerror} (security)") from None
    try:
        secured = context.wrap_socket(plain)
    except ssl.SSLCertVerificationError as problem:
        raise ClusterError(
            f"{address}: its certificate is not signed by {security.tls_ca_file} (security.ca_file): "
            f"{problem.verify_message}"
        ) from None
    except (ssl.SSLError, TimeoutError) as problem:
        raise ClusterError(f"{address}: no TLS there; {_short(problem)}; is it tcp://?") from None
    with secured:
        try:
            heard = _hears(secured)
        except ssl.SSLError as problem:  # with TLS 1.3, the server checks our certificate only now
            raise ClusterError(
                f"{address}: refuses the certificate {security.tls_client_cert} (security.cert): "
                f"{_short(problem)}"
            ) from None
        if not heard:
            raise ClusterError(f"{address}: speaks TLS, but not as a Dask scheduler does")


def _hears(connected: socket.socket) -> bool:
    try:
        return bool(connected.recv(1))
    except TimeoutError:
        return False
    except ConnectionError:
        return False


def _short(problem: BaseException) -> str:
    """`[SSL: KEY_VALUES_MISMATCH] key values mismatch (_ssl.c:4149)` -> `key values mismatch`."""
    return re.sub(r"^\[.*?\] |\s*\(_ssl\.c:\d+\)$", "", str(problem)).strip() or type(problem).__name__


def _read_address(scheduler_file: Path, wait_s: float) -> str:
    """The address in a scheduler's file, which may not have been written yet."""
    deadline = time.monotonic() + wait_s
    while not scheduler_file.exists():
        if time.monotonic() >= deadline:
            raise ClusterUnreachable(f"{scheduler_file}: no such file after {wait_s:.0f} s (scheduler_file)")
        time.sleep(0.2)
    try:
        return str(json.loads(scheduler_file.read_text())["address"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ClusterError(
            f"{scheduler_file}: names no address; it should be what `dask scheduler --scheduler-file` writes"
        ) from None
