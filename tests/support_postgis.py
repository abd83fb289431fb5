"""A real PostgreSQL with PostGIS on loopback, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import wait_until


def _programs() -> Path:
    """The folder of initdb and postgres, of a version that has PostGIS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    for folder in reversed(found):
        if (folder / "initdb").exists() and list((folder.parent / "lib").glob("postgis-*.so")):
            return folder
    pytest.skip("no PostgreSQL with PostGIS here: apt install postgresql-15 postgresql-15-postgis-3")


@contextmanager
def postgis() -> Iterator[str]:
    """URL of an empty database `map`, with PostGIS."""
    psycopg = pytest.importorskip("psycopg", reason="the extra 'postgis' is not installed")
    programs = _programs()
    user = None
    if os.getuid() == 0:  # which PostgreSQL refuses to run as
        try:
            user = pwd.getpwnam("postgres").pw_uid
        except KeyError:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    home = Path(tempfile.mkdtemp(prefix="camtrap-postgis-"))
    if user is not None:
        os.chown(home, user, -1)
    data = home / "data"
    initdb = [programs / "initdb", "-D", data, "-U", "ranger", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(initdb, user=user, check=True, capture_output=True, cwd=home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-p", str(port), "-k", str(home), "-c", "fsync=off", "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(
        [programs / "postgres", "-D", data, *options], user=user, cwd=home, stderr=subprocess.DEVNULL
    )
    url = f"postgresql://ranger@127.0.0.1:{port}"

    def answers() -> bool:
        try:
            psycopg.connect(f"{url}/postgres", connect_timeout=2).close()
        except psycopg.OperationalError:
            assert server.poll() is None, "PostgreSQL has ended"
            return False
        return True

    try:
        wait_until(answers)
        with psycopg.connect(f"{url}/postgres", autocommit=True) as db:
            db.execute("CREATE DATABASE map")
        with psycopg.connect(f"{url}/map", autocommit=True) as db:
            db.execute("CREATE EXTENSION postgis")
        yield f"{url}/map"
    finally:
        server.send_signal(signal.SIGQUIT)
        server.wait(30)
        shutil.rmtree(home, ignore_errors=True)
