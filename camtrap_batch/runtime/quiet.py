"""OpenVINO without its telemetry.

On import, and whenever a network is converted or quantised, OpenVINO and NNCF tell their makers so over the
network, unless a user has opted out of it. A job of ours tells nobody anything. Without the package that
sends it, which is theirs, too, both do without.
"""

from __future__ import annotations

import sys
from typing import Any


def import_openvino() -> Any:
    """The package `openvino`. Where the program has loaded its telemetry already, it stays as it is."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed"
    import openvino

    return openvino
