"""Files that are not the photos they should be: one or more of every status but `crashed`."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from camtrap_batch.rehearsal.plan import Frame, fault_generator

OUTSIDE = "../outside/secret.jpg"
"""Path, as given in the metadata, of the image that lies beside the image root instead of under it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one image.

    Args:
        name: name of the fault, for the truth table.
        status: status that the image must be given.
        suffix: suffix of the file name.
        spoil: makes the file's content from the photo's; None if there is no file.
        findings: kinds of findings that must come out besides the status.
        seconds: length of a video, which has one frame per second.
    """

    name: str
    status: str
    suffix: str
    spoil: Callable[[bytes], bytes] | None
    findings: tuple[str, ...] = ()
    seconds: int = 1

    def write(self, path: Path, photo: bytes, later: Sequence[bytes] = ()) -> None:
        """Put at `path` what the fault calls for: a file, a folder, or nothing.

        `later`: the frames of a video that follow the photo.
        """
        if later:
            path.write_bytes(motion_jpeg([photo, *later]))
        elif self.spoil is not None:
            path.write_bytes(self.spoil(photo))
        elif self.status == "unreadable":
            path.mkdir(exist_ok=True)


def _truncated(photo: bytes) -> bytes:
    return photo[: len(photo) * 7 // 10]


def _damaged(photo: bytes) -> bytes:
    """A block of zeros in the middle of the stream, as a card with a bad sector leaves it."""
    start = len(photo) // 2
    block = min(4096, len(photo) // 4)
    return photo[:start] + bytes(block) + photo[start + block :]


def _garbage(photo: bytes) -> bytes:
    return photo[:2] + np.random.default_rng(len(photo)).bytes(len(photo) - 2)


def _header_only(photo: bytes) -> bytes:
    """Cut right after the header of the first scan."""
    scan = photo.index(b"\xff\xda")
    return photo[: scan + 2 + struct.unpack(">H", photo[scan + 2 : scan + 4])[0]]


def _empty(photo: bytes) -> bytes:
    return b""


def _video(photo: bytes) -> bytes:
    return motion_jpeg([photo])


def motion_jpeg(photos: Sequence[bytes]) -> bytes:
    """An AVI file (RIFF, Motion JPEG) of photos of one size, one per second, as many cameras write them."""
    height, width = _jpeg_size(photos[0])
    n, longest = len(photos), max(map(len, photos))

    def chunk(name: bytes, content: bytes) -> bytes:
        return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)

    main = struct.pack("<14I", 1_000_000, 0, 0, 0x10, n, 0, 1, longest, width, height, 0, 0, 0, 0)
    stream = struct.pack(
        "<4s4sIHHIIIIIIII4H", b"vids", b"MJPG", 0, 0, 0, 0, 1, 1, 0, n, longest, 0, 0, 0, 0, width, height
    )
    picture = struct.pack("<IiiHH4sIiiII", 40, width, height, 1, 24, b"MJPG", width * height * 3, 0, 0, 0, 0)
    header = chunk(
        b"LIST",
        b"hdrl"
        + chunk(b"avih", main)
        + chunk(b"LIST", b"strl" + chunk(b"strh", stream) + chunk(b"strf", picture)),
    )
    frames = [chunk(b"00dc", photo) for photo in photos]
    offsets = [4 + sum(map(len, frames[:number])) for number in range(n)]
    index = b"".join(
        struct.pack("<4sIII", b"00dc", 0x10, offset, len(photo))
        for offset, photo in zip(offsets, photos, strict=True)
    )
    movie = chunk(b"LIST", b"movi" + b"".join(frames))
    return chunk(b"RIFF", b"AVI " + header + movie + chunk(b"idx1", index))


def _page(photo: bytes) -> bytes:
    """What a failed download leaves behind."""
    return (
        b"<!DOCTYPE html>\n<html><head><title>503 Service Unavailable</title></head>\n"
        b"<body><h1>Service Unavailable</h1><p>Please try again later.</p></body></html>\n"
    )


def _pointer(photo: bytes) -> bytes:
    """What a clone without Git LFS has in place of a photo."""
    digest = hashlib.sha256(photo).hexdigest()
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(photo)}\n".encode()


def _bomb(photo: bytes) -> bytes:
    """A correct PNG of some 300 KB with 50,000 x 50,000 pixels, 2.5 GB once decoded to grey."""
    side = 50_000
    rows = bytes((1 + side // 8) * 100)
    compress = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compress.compress(rows) + compress.flush(zlib.Z_FULL_FLUSH)
    total = len(rows) * (side // 100)
    checksum = (total % 65521) << 16 | 1  # Adler-32 of that many zeros, without creating them
    data = b"\x78\xda" + block * (side // 100) + compress.flush() + struct.pack(">I", checksum)

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _unspoilt(photo: bytes) -> bytes:
    return photo


FAULTS: tuple[Fault, ...] = (
    Fault("stream cut at 70 %", "truncated", ".jpg", _truncated),
    Fault("zeros in the stream", "damaged", ".jpg", _damaged),
    Fault("garbage after the start marker", "corrupt", ".jpg", _garbage),
    Fault("header only", "corrupt", ".jpg", _header_only),
    Fault("no file", "missing", ".jpg", None),
    Fault("no bytes", "empty_file", ".jpg", _empty),
    Fault("video", "video", ".avi", _video, seconds=5),
    Fault("web page", "not_image", ".jpg", _page),
    Fault("text", "not_image", ".jpg", _pointer),
    Fault("decompression bomb", "too_large", ".png", _bomb, ("size_differs",)),
    Fault("outside the root", "unsafe_path", ".jpg", _unspoilt),
    Fault("a folder", "unreadable", ".jpg", None),
)


def choose_faults(plan: Sequence[Sequence[Frame]], seed: int) -> dict[tuple[int, int], Fault]:
    """Which frame, as (camera, index), has which fault: one after another, camera by camera."""
    order = [
        [int(index) for index in fault_generator(seed, camera).permutation(min(len(frames), 40))]
        for camera, frames in enumerate(plan)
    ]
    chosen: dict[tuple[int, int], Fault] = {}
    camera = 0
    for fault in FAULTS:
        while not order[camera % len(order)]:
            camera += 1
        chosen[camera % len(order), order[camera % len(order)].pop()] = fault
        camera += 1
    return chosen


def _jpeg_size(photo: bytes) -> tuple[int, int]:
    """Height and width from the baseline frame header."""
    start = photo.index(b"\xff\xc0")
    height, width = struct.unpack(">HH", photo[start + 5 : start + 9])
    return height, width
