"""Append jobs: thousands of rows in one request, added or updated by their key in the server's own time.

A job says nothing about single rows: whoever sends one must look for its rows afterwards. The client's own
`append` waits forever if a job stays pending, or ends with errors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from camtrap_batch.errors import InputError
from camtrap_batch.portal.reading import WGS_84
from camtrap_batch.portal.service import Service, Unknown
from camtrap_batch.targets.arcgis.layer import RemoteLayer

ROWS = 5_000
"""Maximum number of rows in one job."""

_FORMAT = "featureCollection"
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_STILL_S = 600.0
"""A job whose status has not changed for this many seconds is no longer waited for."""


def require_append(layer: RemoteLayer) -> None:
    """Raise InputError if a layer can't add and update rows by their key in append jobs."""
    about = layer.info.about
    formats = about.get("supportedAppendFormats") or []
    formats = formats.split(",") if isinstance(formats, str) else formats
    if not about.get("supportsAppend"):
        wrong = "takes no append jobs (hosted feature layers do); leave out publish.append"
    elif _FORMAT not in [name.strip() for name in formats]:
        wrong = f"takes no {_FORMAT} in append jobs, only {', '.join(formats)}; leave out publish.append"
    elif not layer.key_is_unique:
        wrong = (
            f"append jobs need a unique index on {layer.key}; `camtrap layer create JOB` adds one, or leave "
            "out publish.append"
        )
    else:
        return
    raise InputError(f"{layer.url}: {wrong}")


def run_job(
    service: Service, layer: RemoteLayer, features: Sequence[dict[str, Any]], stop: threading.Event
) -> str:
    """Send rows in one append job and wait for its completion; returns what the server says, mostly nothing.

    The same rows may be sent again, whatever became of them, and in any other way: the layer's unique index
    keeps a late job from adding an existing row.

    Raises
    ------
    Unknown
        There is no answer that says what was done; the job fails, or makes no progress; or `stop` is set.
    ServiceRefused
        The server rejects all of them.
    """
    answer = service.send(
        f"{layer.url}/append",
        {
            "appendUploadFormat": _FORMAT,
            "edits": _collection(layer, features),
            "upsert": "true",
            "upsertMatchingField": layer.key,
            "updateGeometry": "true",
            "rollbackOnFailure": "false",
        },
    )
    url = answer.get("statusUrl")
    if not isinstance(url, str):
        raise Unknown("an append job without an address")
    pause, before, since = _PAUSE_S, None, time.monotonic()
    while True:
        status = service.read(url)
        state = str(status.get("status")).lower()
        said = " ".join(map(str, status.get("messages") or []))
        if state.startswith("completed"):  # "CompletedWithErrors", too
            return said
        if state.startswith(("failed", "cancel")):
            raise Unknown(f"an append job {state}{f': {said}' if said else ''}")
        if status != before:
            before, since = status, time.monotonic()
        elif time.monotonic() - since > _STILL_S:
            raise Unknown(f"an append job that stays {state}")
        if stop.wait(pause):
            raise Unknown("interrupted while waiting for an append job")
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def _collection(layer: RemoteLayer, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
    geometry = {"geometryType": "esriGeometryPoint"} if layer.has_points else {}
    reference = {"spatialReference": {"wkid": WGS_84}} if layer.has_points else {}
    fields = [{"name": field.name, "alias": field.name, "type": field.type} for field in layer.fields]
    return {
        "layers": [
            {
                "layerDefinition": {**geometry, "fields": fields},
                "featureSet": {**geometry, **reference, "features": features},
            }
        ]
    }
