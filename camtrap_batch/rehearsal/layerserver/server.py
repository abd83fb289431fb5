"""The rehearsal server as commands and tests use it."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from camtrap_batch.errors import InputError
from camtrap_batch.rehearsal.layerserver import control
from camtrap_batch.rehearsal.layerserver.accounts import DEFAULT_USERS, Accounts, User
from camtrap_batch.rehearsal.layerserver.answers import Json
from camtrap_batch.rehearsal.layerserver.database import Database
from camtrap_batch.rehearsal.layerserver.definition import DEFAULT_CAPABILITIES, MAX_RECORDS
from camtrap_batch.rehearsal.layerserver.edits import Edits, apply
from camtrap_batch.rehearsal.layerserver.faults import Faults
from camtrap_batch.rehearsal.layerserver.site import Anonymous, Site
from camtrap_batch.rehearsal.layerserver.tls import server_context
from camtrap_batch.rehearsal.layerserver.web import WebServer

FIRST_SERVICE = "CameraTraps"
KRUGER_CAMERAS: tuple[tuple[float, float], ...] = (
    (3544922.6348, -2774718.7709),
    (3522933.4897, -2791843.0610),
    (3550955.0552, -2813053.8294),
    (3541614.5334, -2845745.6558),
    (3519430.7940, -2867734.8010),
)
"""Five camera traps in Kruger National Park, metres of Web Mercator."""


class LayerServer:
    """An ArcGIS-style portal and feature server on loopback, kept in a folder.

    Args:
        folder: created if it is missing; holds `layers.sqlite`, `certificate.pem` and `key.pem`.
        port: port to listen on; 0 takes a free one.
        users: who may sign in; by default `ranger` (publisher), `warden` (editor) and `visitor` (viewer), all
            with the password `rehearsal`.
        token_minutes: maximum lifetime of a token; may be a fraction.
        is_online: whether it claims to be ArcGIS Online, not an Enterprise portal.

    A new folder gets the service `CameraTraps` with one point layer of five cameras, without attachments.

    Raises:
        InputError: the folder can't be used or is already served, or the port is taken.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        port: int = 0,
        users: Mapping[str, User] = DEFAULT_USERS,
        token_minutes: float = 60.0,
        is_online: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.users = dict(users)
        self.faults = Faults()
        with ExitStack() as started:  # what was opened is closed again if a later part fails
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                started.callback(os.close, _lock(self.folder))
                tls = server_context(self.folder)
                self._database = Database(self.folder)
                started.callback(self._database.close)
            except (OSError, sqlite3.Error) as problem:
                reason = problem.strerror if isinstance(problem, OSError) else problem
                raise InputError(f"{self.folder}: can't be served: {reason}") from None
            self._accounts = Accounts(self._database, self.users, token_minutes)
            self._site = Site(self._database, self._accounts, self.faults)
            self.ca_file: Path = tls[1]
            try:
                self._web = WebServer(port, self._site, is_online, tls[0])
                started.callback(self._web.close)
            except (OSError, OverflowError) as problem:
                reason = problem.strerror if isinstance(problem, OSError) else "there is no such port"
                raise InputError(f"port {port}: {reason}; 0 takes a free one") from None
            self.port = self._web.server_address[1]
            if not self._site.services:
                self._make_first_service(next(iter(self.users)))
            self._opened = started.pop_all()

    # Running ----------------------------------------------------------------------------------------

    def start(self) -> LayerServer:
        self._web.start()
        return self

    def close(self) -> None:
        """Finish what is in flight and stop."""
        self._opened.close()

    def __enter__(self) -> LayerServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Addresses --------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Address of the portal. The same port speaks TLS, with the certificate in `ca_file`."""
        return f"http://127.0.0.1:{self.port}/portal"

    def service_url(self, service: str = FIRST_SERVICE) -> str:
        return f"http://127.0.0.1:{self.port}/server/rest/services/{service}/FeatureServer"

    def layer_url(self, layer: int = 0, service: str = FIRST_SERVICE) -> str:
        return f"{self.service_url(service)}/{layer}"

    def layer_urls(self) -> dict[str, str]:
        """Address of every layer and table, by `service/name`."""
        return {
            f"{layer.service}/{layer.name}": self.layer_url(layer.id, layer.service)
            for layer in self._site.layers.values()
        }

    # Content ----------------------------------------------------------------------------------------

    def create_service(
        self,
        name: str,
        layers: Sequence[Json],
        *,
        capabilities: str = DEFAULT_CAPABILITIES,
        anonymous: Anonymous = "none",
        max_records: int = MAX_RECORDS,
    ) -> str:
        """A new service of the first user; returns its address.

        Args:
            layers: definitions as `addToDefinition` takes them: `name`, `geometryType` (none in a table),
                `fields`, `indexes`, `hasAttachments`...
            capabilities: such as `Query` for a read-only service.
            anonymous: what is allowed without a token: none, read or edit.
            max_records: rows per page.
        """
        owner = next(iter(self.users))
        self._site.create_service(name, layers, owner, capabilities, anonymous, max_records)
        return self.service_url(name)

    def rows(self, layer: int = 0, service: str = FIRST_SERVICE) -> list[Json]:
        """Every row by object id: its attributes, and `SHAPE`, its geometry or None."""
        return control.rows(self._site, service, str(layer))

    def attachments(self, layer: int = 0, service: str = FIRST_SERVICE) -> list[Json]:
        """Every attachment: id, parent, globalid, name, content_type, size, keywords, content."""
        return control.attachments(self._site, service, str(layer))

    # Tokens and requests ------------------------------------------------------------------------------

    def token(self, user: str | None = None, minutes: float | None = None) -> str:
        """A token for a user (by default the first one), which also works as an API key."""
        return self._accounts.token(user or next(iter(self.users)), minutes)[0]

    def expire_tokens(self) -> None:
        """Let every token issued so far expire now."""
        self._accounts.expire_tokens()

    def requests(self) -> dict[str, int]:
        """How many requests there were, by operation, since the start or `reset_requests`."""
        return self.faults.counts()

    def reset_requests(self) -> None:
        self.faults.reset_counts()

    def wait_for_jobs(self) -> None:
        """Wait until every append job has ended, even one that is stuck."""
        for job in list(self._site.jobs):
            job.join()

    def _make_first_service(self, owner: str) -> None:
        self._site.create_service(
            FIRST_SERVICE,
            [
                {
                    "id": 0,
                    "name": FIRST_SERVICE,
                    "geometryType": "esriGeometryPoint",
                    "fields": [
                        {"name": "objectid", "type": "esriFieldTypeOID"},
                        {"name": "globalid", "type": "esriFieldTypeGlobalID"},
                    ],
                }
            ],
            owner,
            anonymous="read",
        )
        layer = self._site.layers[FIRST_SERVICE, 0]
        cameras = [{"geometry": {"x": x, "y": y}} for x, y in KRUGER_CAMERAS]
        with self._database.writing() as db:
            apply(db, layer, Edits(cameras, moment_ms=int(time.time() * 1000)))


def _lock(folder: Path) -> int:
    """A descriptor that reserves the folder for this server; the system frees it when the process ends."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(f"{folder}: another server serves this folder") from None
    return descriptor
