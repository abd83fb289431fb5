"""Files whose headers claim much: what it costs to judge them, as numbers to hold against limits.

Run as a program it judges each in a process of its own, a fork of one that is warm, and prints a line of JSON
each: name, bytes, and status, detail, peak memory of all the process in bytes, seconds of its time.
"""

from __future__ import annotations

import io
import json
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

MOST = 200_000_000
SQUARE = 14_142
"""Of this side a picture has 200 megapixels, the job's own limit, all but some."""

Sizes = dict[str, tuple[int, int]]
ANY_SIZES: Sizes = {"tall": (1, MOST), "wide": (MOST, 1), "square": (SQUARE, SQUARE)}
SHORT_SIZES: Sizes = {"tall": (3053, 65_500), "wide": (65_500, 3053), "square": (SQUARE, SQUARE),
                      "column": (1, 65_500), "row": (65_500, 1)}  # fmt: skip


PNGS = ((1, 0), (8, 0), (16, 0), (8, 2), (16, 2), (8, 3), (8, 4), (16, 4), (8, 6), (16, 6))
"""Bits of a sample, and colour type."""
TIFFS = ((1, 1, 1), (8, 1, 1), (16, 1, 1), (32, 1, 1), (8, 2, 3), (16, 2, 3), (8, 5, 4), (8, 3, 1), (8, 2, 4))
"""Bits of a sample, photometric interpretation, samples of a pixel."""


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def bits(fields: list[tuple[int, int]]) -> bytes:
    """Values and their widths, as a JPEG stream has them."""
    value = length = 0
    for number, width in fields:
        value, length = value << width | number, length + width
    padding = -length % 8
    return (
        ((value << padding) | (1 << padding) - 1)
        .to_bytes((length + padding) // 8, "big")
        .replace(b"\xff", b"\xff\0")
    )


def jpeg(
    size: tuple[int, int], *, marker: int = 0xC0, samplings: tuple[int, ...] = (0x22, 0x11, 0x11), part: float
) -> bytes:
    """A part of a grey picture, whose blocks take two bits each, or one in a progressive file."""
    width, height = size
    n = len(samplings)
    across, down = max(s >> 4 for s in samplings), max(s & 15 for s in samplings)
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = units * sum((s >> 4) * (s & 15) for s in samplings)
    header = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    parts = b"".join(bytes([i + 1, s, 0]) for i, s in enumerate(samplings))
    header += segment(marker, struct.pack(">BHHB", 8, height, width, n) + parts)
    one_code = bytes([1, *[0] * 15, 0])
    header += segment(0xC4, b"\0" + one_code) + segment(0xC4, b"\x10" + one_code)
    is_progressive = marker == 0xC2
    spectrum = b"\0\0\0" if is_progressive else b"\0\x3f\0"
    header += segment(0xDA, bytes([n]) + b"".join(bytes([i + 1, 0]) for i in range(n)) + spectrum)
    return header + bytes(-(-int(blocks * part) // (8 if is_progressive else 4))) + b"\xff\xd9"


def many_scans(size: tuple[int, int], n_scans: int) -> bytes:
    """A sound progressive file, grey all over, with as many scans as are asked for, up to 2,647."""
    width, height = size
    n_blocks = -(-width // 8) * -(-height // 8)
    data = b"\xff\xd8" + segment(0xDB, b"\0" + b"\1" * 64)
    components = b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    data += segment(0xC2, struct.pack(">BHHB", 8, height, width, 3) + components)
    data += segment(0xC4, b"\0" + bytes([1, *[0] * 15, 0]))
    ends = bytes(run << 4 for run in range(15))
    data += segment(0xC4, b"\x10" + bytes([0, 0, 0, 15, *[0] * 12]) + ends)
    data += segment(0xDA, bytes([3, 1, 0, 2, 0, 3, 0, 0, 0, 0])) + bits([(0, 3 * n_blocks)])
    fields, left = [], n_blocks
    while left:
        size_of_run = min(14, left.bit_length() - 1)
        run = min(left, (2 << size_of_run) - 1)
        fields += [(size_of_run, 4), (run - (1 << size_of_run), size_of_run)]
        left -= run
    nothing, n = bits(fields), 1
    for number in (1, 2, 3):
        for k in range(1, 64):
            for high in (0, *range(13, 0, -1)):
                if n < n_scans:
                    low = high - 1 if high else 13
                    data += segment(0xDA, bytes([1, number, 0, k, k, high << 4 | low])) + nothing
                    n += 1
    return data + b"\xff\xd9"


def png(size: tuple[int, int], depth: int, colour: int, raw: bytes | None = None) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    if colour == 3:
        data += chunk(b"PLTE", bytes(range(9)))
    body = zlib.compress(bytes(100)) if raw is None else raw
    return data + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def zeros(n_bytes: int) -> bytes:
    """So many zeros, compressed."""
    packer = zlib.compressobj(1)
    some = bytes(2**20)
    parts = [packer.compress(some) for _ in range(n_bytes // 2**20)]
    return b"".join([*parts, packer.compress(bytes(n_bytes % 2**20)), packer.flush()])


def tiff(size: tuple[int, int], bit_depth: int, photometric: int, samples: int, compression: int = 1,
         tile: int = 0, data: bytes = bytes(100)) -> bytes:  # fmt: skip
    tags = {256: size[0], 257: size[1], 258: bit_depth, 259: compression, 262: photometric, 277: samples}
    tags |= {322: tile, 323: tile, 324: 8, 325: len(data)} if tile else {273: 8, 278: size[1], 279: len(data)}
    if photometric == 3:
        tags[320] = 0
    entries = []
    start = 8 + len(data)
    beyond = b""
    end = start + 6 + 12 * len(tags)
    for tag, value in sorted(tags.items()):
        if tag == 258 and samples > 2:
            entries.append(struct.pack("<HHII", tag, 3, samples, end + len(beyond)))
            beyond += struct.pack("<H", bit_depth) * samples
        elif tag == 320:
            entries.append(struct.pack("<HHII", tag, 3, 768, end + len(beyond)))
            beyond += bytes(768 * 2)
        else:
            entries.append(struct.pack("<HHII", tag, 4, 1, value))
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + data + directory + beyond


def gif(size: tuple[int, int]) -> bytes:
    screen = struct.pack("<HHBBB", *size, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, *size, 0) + b"\2\2\x4c\1\0;"


def bmp(size: tuple[int, int], depth: int, compression: int = 0, data: bytes = bytes(100)) -> bytes:
    palette = bytes(4 * (1 << depth)) if depth <= 8 else b""
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, depth, compression, len(data), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def webp_lossless(size: tuple[int, int]) -> bytes:
    """One colour all over: no pixel takes a bit."""
    width, height = size
    head = (width - 1) | (height - 1) << 14
    stream = b"\x2f" + struct.pack("<I", head) + bytes.fromhex("88888808")
    body = b"WEBPVP8L" + struct.pack("<I", len(stream)) + stream + b"\0" * (len(stream) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def webp_lossy(size: tuple[int, int]) -> bytes:
    frame = b"\x50\x01\x00\x9d\x01\x2a" + struct.pack("<HH", *size) + bytes(60)
    body = b"WEBPVP8 " + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(body)) + body


def jpeg2000(size: tuple[int, int], samples: int, depth: int, tile: int = 0) -> bytes:
    tiles = (tile, tile) if tile else size
    siz = struct.pack(">HIIIIIIIIH", 0, *size, 0, 0, *tiles, 0, 0, samples)
    siz += bytes([depth - 1, 1, 1]) * samples
    cod = bytes([0, 0]) + struct.pack(">HB", 1, 0) + bytes([5, 4, 4, 0, 1])
    qcd = bytes([0x40]) + bytes([0x40] * 16)
    stream = b"\xff\x4f" + segment(0x51, siz) + segment(0x52, cod) + segment(0x5C, qcd)
    stream += segment(0x90, struct.pack(">HIBB", 0, 14 + 40, 0, 1)) + b"\xff\x93" + bytes(40)
    return stream + b"\xff\xd9"


def saved(kind: str, mode: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def shapes() -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name of each file, and what makes it."""
    for name, size in SHORT_SIZES.items():
        for kind, samplings in {"420": (0x22, 0x11, 0x11), "444": (0x11,) * 3, "grey": (0x11,),
                                "cmyk": (0x11,) * 4, "4x1": (0x41, 0x11, 0x11)}.items():  # fmt: skip
            for marker in (0xC0, 0xC2):
                for part in (0, 1):
                    yield (
                        f"jpeg-{marker:x}-{kind}-{part}-{name}",
                        lambda s=size, m=marker, f=samplings, p=part: jpeg(s, marker=m, samplings=f, part=p),
                    )
    yield "jpeg-lossless", lambda: jpeg((SQUARE, SQUARE), marker=0xC3, part=0)
    yield "jpeg-2000-scans-large", lambda: many_scans((SQUARE, SQUARE), 2000)
    yield "jpeg-2000-scans", lambda: many_scans((2048, 1536), 2000)
    for name, size in ANY_SIZES.items():
        for depth, colour in PNGS:
            yield f"png-{depth}-{colour}-{name}", lambda s=size, d=depth, c=colour: png(s, d, c)
        for depth, photometric, samples in TIFFS:
            for compression in (1, 5, 7):
                yield (
                    f"tiff-{compression}-{depth}-{photometric}-{name}",
                    lambda s=size, d=depth, p=photometric, n=samples, c=compression: tiff(s, d, p, n, c),
                )
        for depth in (1, 8, 24, 32):
            yield f"bmp-{depth}-{name}", lambda s=size, d=depth: bmp(s, d)
        yield f"bmp-rle-{name}", lambda s=size: bmp(s, 8, 1, b"\xff\0" * 1000 + b"\0\1")
        for samples, depth in ((1, 8), (1, 16), (2, 8), (3, 8), (4, 8)):
            yield f"jpeg2000-{samples}-{depth}-{name}", lambda s=size, n=samples, d=depth: jpeg2000(s, n, d)
    for tile in (2**20, 2**16, 16):
        yield f"tiff-tile-{tile}", lambda t=tile: tiff((100, 100), 8, 2, 3, 5, t)
        yield f"tiff-tile-{tile}-square", lambda t=tile: tiff((SQUARE, SQUARE), 8, 1, 1, 5, t)
        yield f"jpeg2000-tile-{tile}", lambda t=tile: jpeg2000((SQUARE, SQUARE), 3, 8, t)
    for name, size in {**SHORT_SIZES, "huge": (16_383, 12_207)}.items():
        yield f"gif-{name}", lambda s=size: gif(s)
        if max(size) <= 16_383:
            yield f"webp-lossless-{name}", lambda s=size: webp_lossless(s)
            yield f"webp-lossy-{name}", lambda s=size: webp_lossy(s)
    yield "webp-thin", lambda: webp_lossless((16_383, 1))
    # As much as is decoded, of each kind: whole pictures.
    yield "png-grey-whole", lambda: png((SQUARE, SQUARE), 8, 0, zeros(SQUARE * (SQUARE + 1)))
    yield "png-column-whole", lambda: png((1, 40_000_000), 8, 0, zeros(80_000_000))
    yield "png-row-whole", lambda: png((25_000_000, 1), 8, 2, zeros(75_000_001))
    yield "png-rgb-whole", lambda: png((11_000, 11_000), 8, 2, zeros(11_000 * 33_001))
    yield "png-rgb16-whole", lambda: png((11_000, 11_000), 16, 2, zeros(11_000 * 66_001))
    yield "png-thin-whole", lambda: png((512, 250_000), 8, 2, zeros(250_000 * 1537))
    yield "tiff-group4-whole", lambda: saved("TIFF", "1", (SQUARE, SQUARE), compression="group4")
    yield "tiff-lzw-whole", lambda: saved("TIFF", "RGB", (8000, 8000), compression="tiff_lzw")
    yield "tiff-float-whole", lambda: saved("TIFF", "F", (8000, 8000), compression="tiff_adobe_deflate")
    yield "gif-whole", lambda: saved("GIF", "P", (SQUARE, SQUARE))
    yield "webp-whole", lambda: webp_lossless((6000, 6000))
    yield "avif-whole", lambda: saved("AVIF", "RGB", (7000, 7000), speed=10)
    yield "jpeg2000-whole", lambda: saved("JPEG2000", "RGB", (5000, 5000))
    yield "jpeg2000-grey-whole", lambda: saved("JPEG2000", "L", (8000, 8000))


def main(*names: str) -> None:
    from camtrap_batch.images import Limits, judge, prepare

    prepare()
    for name, make in shapes():
        if names and not any(name.startswith(one) for one in names):
            continue
        data = make()
        back, answer = os.pipe()
        child = os.fork()
        if child == 0:
            os.dup2(answer, 2)
            verdict = judge(data, name, Limits())
            usage = resource.getrusage(resource.RUSAGE_SELF)
            lines = Path("/proc/self/status").read_text().splitlines()
            peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
            said = [verdict.status, verdict.detail, peak, usage.ru_utime + usage.ru_stime]
            os.write(answer, json.dumps(said).encode())
            os._exit(0)
        os.close(answer)
        with os.fdopen(back) as file:
            said = file.read()
        os.waitpid(child, 0)
        print(f"[{json.dumps(name)}, {len(data)}, {said or 'null'}]", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
