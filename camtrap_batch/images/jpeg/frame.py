"""What a JPEG file will cost a decoder, judged by its markers before anything is decoded.

Markers are found as libjpeg finds them, over fill bytes and rubbish: ITU-T T.81 (1992), annex B.
"""

from __future__ import annotations

from dataclasses import dataclass

_LOSSLESS = 0xC3
_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA, _LOSSLESS)  # of Huffman and arithmetic coding that libjpeg knows
_PROGRESSIVE = (0xC2, 0xCA)
_SOS, _EOI = 0xDA, 0xD9
_ALONE = frozenset({0x01, 0xD8, *range(0xD0, 0xD8)})  # markers that no segment follows
_LARGEST_SAMPLING = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """A JPEG file's frame, and how its scans come.

    Attributes
    ----------
    blocks : number of blocks of 8 x 8 samples, in all components together
    scans : the largest possible number of scans
    is_buffered : whether a decoder has to hold every coefficient: it is progressive, or has a scan for each
        component
    coded : bytes from the first scan's header to the file's end
    is_lossless : whether it is coded without a transform (T.81, annex H), and can't be read at a fraction
    """

    width: int
    height: int
    blocks: int
    scans: int
    is_buffered: bool
    coded: int
    is_lossless: bool

    @property
    def coefficient_bytes(self) -> int:
        """Bytes that a decoder needs besides a few rows of the picture."""
        return self.blocks * 128 if self.is_buffered else 0


def read_frame(data: bytes) -> Frame | None:
    """The frame of a JPEG file, up to its first scan; None if it has none that libjpeg would decode."""
    at, found = 2, None
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            return None
        while data[at : at + 1] == b"\xff":
            at += 1
        marker = data[at] if at < len(data) else _EOI
        at += 1
        if marker == 0 or marker in _ALONE:
            continue
        if marker == _EOI:
            return None
        length = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + length]
        if marker == _SOS:
            return None if found is None or not body else _with_scans(found, data, at, body[0])
        if marker in _FRAMES:
            if found is not None or len(body) < 6:
                return None
            found = marker, body
        at += max(length, 2)


def _with_scans(found: tuple[int, bytes], data: bytes, at: int, n_first: int) -> Frame | None:
    """The frame, from its marker and segment, the position of the first scan and its number of components."""
    marker, body = found
    height, width, n = int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big"), body[5]
    samplings = [(value >> 4, value & 15) for value in body[7 : 6 + 3 * n : 3]]
    sides = [side for sampling in samplings for side in sampling]
    if not samplings or min(sides) < 1 or max(sides) > _LARGEST_SAMPLING or not width or not height:
        return None
    across, down = (max(sampling[axis] for sampling in samplings) for axis in (0, 1))
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    # What follows 0xff within a scan is 0 or a restart marker.
    return Frame(
        width=width,
        height=height,
        blocks=units * sum(x * y for x, y in samplings),
        scans=data.count(b"\xff\xda", at - 2),
        is_buffered=marker in _PROGRESSIVE or n_first < n,
        coded=len(data) - at,
        is_lossless=marker == _LOSSLESS,
    )
