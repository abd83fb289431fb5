from __future__ import annotations

import io
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
from PIL import Image

from camtrap_batch.images import Limits, judge
from camtrap_batch.images.libtiff import hear_libtiff

CASES = Path(__file__).parents[1] / "data" / "cases"
DAMAGED = CASES / "tif_group4_stderr_ok.tif"


def test_what_libtiff_says_is_damage() -> None:
    verdict = judge(DAMAGED.read_bytes(), "a.tif", Limits())
    assert (verdict.status, verdict.detail) == (
        "damaged",
        "Fax4Decode: Bad code word at line 59 of strip 0 (x 100)",
    )
    assert verdict.thumbnail is not None


def test_nothing_is_printed() -> None:
    """By decoders of any format, of files with faults."""
    program = """
import io, sys, random
from pathlib import Path
from PIL import Image
from camtrap_batch.images import Limits, judge
picture = Image.effect_noise((120, 90), 80)
files = [Path(sys.argv[1]).read_bytes()]
for kind, options in (
    *(("TIFF", {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")),
    ("PNG", {}), ("GIF", {}), ("WEBP", {}), ("BMP", {}), ("JPEG2000", {}), ("AVIF", {}), ("JPEG", {}),
):
    file = io.BytesIO()
    picture.convert("RGB").save(file, kind, **options)
    files.append(file.getvalue())
randomly = random.Random(1)
statuses = set()
for data in files:
    for _ in range(30):
        spoilt = bytearray(data)
        for _ in range(3):
            spoilt[randomly.randrange(len(spoilt))] = randomly.randrange(256)
        statuses.add(judge(bytes(spoilt), "a", Limits(thumbnail=0)).status)
print(len(statuses))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(DAMAGED)], capture_output=True, text=True, timeout=120
    )
    assert done.stderr == ""
    assert int(done.stdout) >= 3


def test_each_thread_hears_what_is_said_of_its_own_picture() -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((300, 300), np.uint8)).convert("1").save(file, "TIFF", compression="group4")
    sound, damaged = file.getvalue(), DAMAGED.read_bytes()
    wrong: list[str] = []

    def look(data: bytes, expected: str) -> None:
        for _ in range(200):
            status = judge(data, "a.tif", Limits(thumbnail=0)).status
            if status != expected:
                wrong.append(f"{status}, not {expected}")

    threads = [
        threading.Thread(target=look, args=(sound, "ok") if number % 2 else (damaged, "damaged"))
        for number in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_is_heard_belongs_to_its_block() -> None:
    with hear_libtiff() as before:
        with hear_libtiff() as said:
            Image.open(DAMAGED).load()
        assert before == []
        assert len(said) > 10
