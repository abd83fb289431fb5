"""Videos for tests: their frames are known by how light they are, and by a bright spot that moves."""

from __future__ import annotations

import io
from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av", reason="PyAV (extra 'video') is not installed")

RATE = 5
SIZE = (160, 120)


def shade(number: int) -> int:
    """How light the n-th frame is."""
    return 40 + 3 * number % 200


def make_video(
    kind: str = "mp4", codec: str = "mpeg4", seconds: float = 6, *, spot: bool = False, **metadata: str
) -> bytes:
    """A video of this many seconds, five frames each.

    Parameters
    ----------
    spot : instead of becoming lighter, each frame is dark, with a bright spot of 20 pixels that moves by 4
    """
    file = io.BytesIO()
    with av.open(file, "w", format={"mkv": "matroska"}.get(kind, kind)) as container:
        container.metadata.update(metadata)
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 10
        stream.time_base = Fraction(1, RATE)
        for number in range(int(seconds * RATE)):
            pixels = np.full((SIZE[1], SIZE[0], 3), 20 if spot else shade(number), np.uint8)
            left = 4 * number % 140 if spot else 0
            pixels[:40, left : left + (20 if spot else 40)] = 255
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            frame.pts, frame.time_base = number, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
