"""One image: where it is, what it holds, what state it is in. Independent of Dask.

`sources` lists and reads files: in a folder on `disk`, in a `bucket`, on the `web`, in an `archive` in any of
these, or `attachments` of a feature layer; `sources.base` has the table. `kinds` looks at first bytes,
`decode` and `exif` at the rest; `pixels` works on small pictures, `judge` puts together the verdict on one
image, `reading` reads and judges many. Most JPEG files go through `jpeg`, with `compiled` loops.
"""

from __future__ import annotations

from camtrap_batch.images.decode import decode_upright
from camtrap_batch.images.judge import Limits, Verdict, judge, prepare
from camtrap_batch.images.pixels import Thumbnail
from camtrap_batch.images.reading import MOST_ABANDONED, abandoned, judge_files, read_files
from camtrap_batch.images.sources.base import Listing, is_unsafe
from camtrap_batch.images.sources.root import ImageRoot

__all__ = [
    "ImageRoot",
    "MOST_ABANDONED",
    "Limits",
    "Listing",
    "Thumbnail",
    "Verdict",
    "abandoned",
    "decode_upright",
    "is_unsafe",
    "judge",
    "judge_files",
    "prepare",
    "read_files",
]
