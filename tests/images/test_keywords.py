from __future__ import annotations

import random

import pytest
from support_keywords import photo, xmp

from camtrap_batch.images.keywords import Keywords, read_keywords


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_what_programs_write_into_xmp(kind: str) -> None:
    packet = xmp(
        ["Vulpes vulpes", "Süd &amp; West"],
        ["Species|Vulpes  vulpes", "Count|2"],
        ["Species/Meles meles"],
    )
    assert read_keywords(photo(packet, kind=kind)) == Keywords(
        ("Vulpes vulpes", "Süd & West"),
        (("Species", "Vulpes vulpes"), ("Count", "2"), ("Species", "Meles meles")),
    )


def test_iptc_and_windows() -> None:
    data = photo(windows="Fuchs; Rehwild;", iptc=["Füchse".encode(), b"F\xfcchse", b"fox"])
    assert read_keywords(data).flat == ("Füchse", "fox", "Fuchs", "Rehwild")


def test_a_sidecar_adds_to_what_the_photo_has() -> None:
    found = read_keywords(photo(xmp(["a"])), xmp(["b", "a"], ["Species|c"]))
    assert found == Keywords(("a", "b"), (("Species", "c"),))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<x:xmpmeta>",
        b"<x:xmpmeta></x:xmpmeta>",
        b"<x:xmpmeta><rdf:RDF></x:xmpmeta>",
        b'<x:xmpmeta xmlns:x="a"><!DOCTYPE x [<!ENTITY a "aaaa">]>&a;</x:xmpmeta>',
        xmp(["a"]).replace(b"</rdf:Bag>", b""),
        xmp(["\ufffe".encode("utf-16").decode("latin-1")])[:300],
    ],
)
def test_a_broken_packet_has_no_keywords(packet: bytes) -> None:
    assert read_keywords(photo(packet)) == Keywords()


def test_any_bytes() -> None:
    draw = random.Random(3)
    whole = photo(xmp(["a"], ["Species|b"]), windows="c;d", iptc=[b"e"])
    assert read_keywords(whole).flat == ("a", "e", "c", "d")
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 8)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        read_keywords(bytes(data[: draw.randrange(len(data))]))
