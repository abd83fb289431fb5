"""OpenVINO without its telemetry.

On import, and whenever a network is converted or quantised, OpenVINO and NNCF report this to their makers
over the network, unless a user has opted out. Our jobs report nothing to anybody. Without the package that
sends the reports, which is also theirs, both work without telemetry.
"""

from __future__ import annotations

import sys
from typing import Any


def import_openvino() -> Any:
    """The package `openvino`. If the program has already loaded its telemetry, that is not changed."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed"
    import openvino

    return openvino
