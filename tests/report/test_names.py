from __future__ import annotations

from camtrap_batch.events import make_taxonomy
from camtrap_batch.report.names import Names


def test_names_and_categories_as_people_write_them() -> None:
    taxonomy = make_taxonomy(
        {
            "Panthera tigris": {"common_name": "Tiger", "red_list": "Endangered"},
            "lion": {"red_list": "vu"},
            "hare": {"red_list": "LC", "common_name": " brown   hare "},
            "ghost": {"red_list": "nationally rare"},
        }
    )
    names = Names.of(taxonomy)
    assert (names.common_of("panthera tigris"), names.common_of("lion")) == ("Tiger", None)
    assert names.common_of("hare") == "brown hare"
    assert [names.red_list_of(name) for name in ("PANTHERA TIGRIS", "lion", "hare", "ghost", "cat")] == [
        "EN",
        "VU",
        "LC",
        "nationally rare",
        None,
    ]
    assert [name for name in ("panthera tigris", "lion", "hare", "ghost") if names.is_threatened(name)] == [
        "panthera tigris",
        "lion",
    ]
