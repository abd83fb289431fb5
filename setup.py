"""A wheel or sdist holds what the report's map is made with: tools/web/build.py brings it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

_SCRIPT = Path(__file__).resolve().parent / "tools" / "web" / "build.py"


def _make_assets() -> None:
    if _SCRIPT.exists():  # an sdist has the assets, and what they are made with as well
        subprocess.run([sys.executable, str(_SCRIPT), "--package"], check=False)  # noqa: S603


class BuildPy(build_py):
    def run(self) -> None:
        if not self.editable_mode:
            _make_assets()
        super().run()


class Sdist(sdist):
    def run(self) -> None:
        _make_assets()
        super().run()


setup(cmdclass={"build_py": BuildPy, "sdist": Sdist})
