"""Images whose size differs from the metadata's."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.findings.found import NONE, Found, is_null, sentence


def find_other_sizes(said: pa.Table, files: pa.Table) -> Found:
    """Compare `width` and `height` of the metadata with the files'; where one is unknown, nothing is found.

    Width and height may be swapped: some metadata count after the EXIF orientation has turned the picture.
    """
    names = ("width", "height")
    is_known = ~np.any([is_null(table[name]) for table in (said, files) for name in names], axis=0)
    width, height = (pc.fill_null(said[name], 0).to_numpy() for name in names)
    real_width, real_height = (pc.fill_null(files[name], 0).to_numpy() for name in names)
    is_same = (width == real_width) & (height == real_height)
    is_turned = (width == real_height) & (height == real_width)
    rows = np.flatnonzero(is_known & ~is_same & ~is_turned)
    sizes = (pa.array(values[rows]).cast(pa.string()) for values in (width, height, real_width, real_height))
    w, h, real_w, real_h = sizes
    detail = sentence("the metadata says ", w, " x ", h, " pixels, the file has ", real_w, " x ", real_h)
    return Found("size_differs", rows, np.full(len(rows), NONE), detail)
