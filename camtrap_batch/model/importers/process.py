"""A separate program that loads weights which run code, and writes them as an ONNX file.

Loading such a file runs whatever its author put into it, and needs the author's package, whose licence may
not be ours. So it is done, after saying so, by a process that contains nothing of ours but one script; what
it leaves behind is read like any other file.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from camtrap_batch.errors import InputError
from camtrap_batch.notices import say
from camtrap_batch.options import Option

PYTHON = Option(
    "python",
    "the Python that has the model's own package (default: this one); it needs torch, onnx, numpy and Pillow",
    metavar="PROGRAM",
)

_SCRIPTS = Path(__file__).with_name("scripts")
_TIMEOUT_S = 3600
_SECRET = re.compile(r"TOKEN|PASSWORD|SECRET|_KEY|CREDENTIAL|^CAMTRAP_ARCGIS", re.IGNORECASE)
_OFFLINE = {
    "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true",
    "HF_HUB_OFFLINE": "1",
    "PYTHONWARNINGS": "ignore",
    "PYTHONIOENCODING": "utf-8",
}


def run_script(
    script: str,
    request: Mapping[str, Any],
    scratch: Path,
    *,
    file: Path,
    python: str | None,
    install: Mapping[str, str],
) -> dict[str, Any]:
    """Run a script of `scripts/` on a file; returns what it says about it.

    Parameters
    ----------
    request : the script's input, JSON
    scratch : folder that it works in
    file : the file whose code it runs, for messages
    python : program; None: the one that runs this
    install : module that may be missing -> what to install, and what to know about it

    Raises
    ------
    InputError
        The file can't be loaded, needs a package that is not installed, or is something else.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    asked, told = scratch / "request.json", scratch / "result.json"
    asked.write_text(json.dumps({**request, "result": str(told)}))
    say(f"{file}: loading it runs the code in it; this is done now, in a separate process")
    program = python or sys.executable
    # Other people's code gets no credentials.
    passed = {name: value for name, value in os.environ.items() if not _SECRET.search(name)}
    environment = {**passed, **_OFFLINE, "YOLO_CONFIG_DIR": str(scratch)}
    try:
        ended = subprocess.run(  # noqa: S603 - the user's own Python, and our own script
            [program, str(_SCRIPTS / script), str(asked)],
            cwd=scratch,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
        )
    except OSError as problem:
        raise InputError(f"--python {program}: can't be run: {problem.strerror or problem}") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{file}: its process did not end in {_TIMEOUT_S} s") from None
    try:
        result: dict[str, Any] = json.loads(told.read_bytes())
    except (OSError, ValueError):
        lines = [line.strip() for line in ended.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"it said nothing, and ended with {ended.returncode}"
        raise InputError(f"{file}: the process that loads it ended early: {why[:300]}") from None
    if (missing := result.get("missing")) is not None:
        package = str(missing).partition(".")[0]
        how = install.get(package, f"pip install {package}")
        raise InputError(
            f"{file}: loading it needs the package {package!r}, which is not installed in {program}: {how}; "
            "or name another Python with --python"
        )
    if (said := result.get("problem")) is not None:
        raise InputError(f"{file}: {' '.join(str(said).split())[:400]}")
    return result
