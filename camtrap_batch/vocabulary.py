"""Words that mean the same in every room: statuses, kinds of findings, labels with a meaning."""

from __future__ import annotations

STATUSES: dict[str, str] = {
    "ok": "decodes without a complaint",
    "truncated": "the header is fine, the stream ends early; what there is decodes, and training may use it",
    "damaged": "decodes, but the decoder reports corrupt data",
    "corrupt": "nothing usable decodes",
    "missing": "no such file under the image root",
    "empty_file": "zero bytes",
    "not_image": "a video, HTML, text or anything else that is not a still image",
    "too_large": "more pixels than the job's limit (a decompression bomb, or a panorama)",
    "unsafe_path": "the path climbs out of the image root; the file was not opened",
    "unreadable": "an I/O error that stayed after retries, or no result within the job's time limit",
    "crashed": "killed the worker that opened it, alone",
}
"""Status of an image -> what it means. Every manifest row has exactly one."""


FINDING_KINDS: dict[str, str] = {
    "exact_duplicate": "another file of the data set, earlier in the catalog, has the same bytes",
    "near_duplicate": "looks the same as another picture of the same location and moment",
    "date_before_camera": "from before digital cameras, or counted from a clock's factory date",
    "date_in_future": "later than the file was written, or than the manifest was made",
    "date_out_of_order": "earlier than the frame before it in the sequence",
    "clock_reset": "taken after the camera's clock fell back, before it was right again",
    "size_differs": "width and height are not those that the metadata gives",
}
"""Kind of a finding -> what it means."""


DATE_FINDINGS: tuple[str, ...] = (
    "date_before_camera",
    "date_in_future",
    "date_out_of_order",
    "clock_reset",
)
"""Kinds of findings that say: the date may be wrong."""


USABLE: tuple[str, ...] = ("ok", "truncated", "damaged")
"""Statuses whose images are trained on and classified unless the job says otherwise."""


UNCERTAIN = "uncertain"
"""Label of a sequence or an event whose confidence is below the job's `infer.min_confidence`."""


EMPTY = "empty"
"""Name given to category 0, no animal, where the metadata gives it none."""


NO_EVENT: dict[str, str] = {
    "no date": "neither metadata nor EXIF say when it was taken: whether it is independent can't be told",
    "not classified": "nothing of its sequence could be classified",
    "empty": "its sequence shows no animal",
}
"""Why an image is in no event -> what it means; the first that holds."""
