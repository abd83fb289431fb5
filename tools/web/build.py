"""Brings what the report's map is made with into the package: from npm, by the lock file beside this one.

`make assets` and building a wheel or sdist run it. Nothing of it is committed; without npm the report
draws its map as a picture, and says so.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TARGET = HERE.parent.parent / "camtrap_batch" / "report" / "assets"
MODULES = HERE / "node_modules"

FILES = {
    "leaflet.js": "leaflet/dist/leaflet.js",
    "leaflet.css": "leaflet/dist/leaflet.css",
    "topojson-client.js": "topojson-client/dist/topojson-client.min.js",
    "world.json": "world-atlas/countries-50m.json",
    "pmtiles.js": "pmtiles/dist/pmtiles.js",
    "protomaps-leaflet.js": "protomaps-leaflet/dist/protomaps-leaflet.js",
}
"""Name in the package -> where npm puts it."""

_NATURAL_EARTH = "The outlines of countries are made with Natural Earth (public domain)."


def main() -> int:
    """Make the assets, unless they are those of this lock file. 1 where they can't be made."""
    stamp = TARGET / "stamp"
    wanted = hashlib.sha256(
        (HERE / "package-lock.json").read_bytes() + Path(__file__).read_bytes()
    ).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted and (MODULES.exists() or "--package" in sys.argv):
        return 0
    npm = shutil.which("npm")
    if npm is None:
        print("npm is not installed: the report will have a map that does not move", file=sys.stderr)
        return 1
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
    if subprocess.run(command, cwd=HERE, check=False).returncode:
        print("npm ci failed: the report will have a map that does not move", file=sys.stderr)
        return 1
    TARGET.mkdir(exist_ok=True)
    for name, place in FILES.items():
        (TARGET / name).write_text(_tidy(name, (MODULES / place).read_text("utf-8")), "utf-8")
    (TARGET / "LICENSES.txt").write_text(_licences(), "utf-8")
    stamp.write_text(wanted)
    return 0


def _tidy(name: str, text: str) -> str:
    """Without what would ask for another file: source maps, and pictures of controls that we do not have."""
    if name.endswith(".css"):
        return re.sub(r"url\([^)]*\)", "none", text)
    return re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)


def _licences() -> str:
    """The licence of every package that is there for the report, and not for its tests."""
    parts = []
    for path in sorted(MODULES.glob("**/package.json")):
        folder = path.parent
        name = folder.relative_to(MODULES).as_posix()
        about = json.loads(path.read_text("utf-8"))
        if about.get("name") != name.rpartition("node_modules/")[2] or name.startswith(
            ("axe-core", "@types/")
        ):
            continue
        found = sorted(folder.glob("LICEN[SC]E*"))
        text = found[0].read_text("utf-8").strip() if found else about.get("license", "")
        parts.append(f"{name} {about['version']}\n\n{text}\n")
    return "\n\n".join([*parts, _NATURAL_EARTH]) + "\n"


if __name__ == "__main__":
    sys.exit(main())
