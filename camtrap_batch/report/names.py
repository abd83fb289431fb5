"""Common names of species, and how threatened they are, from the job's taxonomy or a data package's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from camtrap_batch.catalog.labels import Taxon, label_key
from camtrap_batch.events import Taxonomy

RED_LIST = {
    "EX": "extinct",
    "EW": "extinct in the wild",
    "CR": "critically endangered",
    "EN": "endangered",
    "VU": "vulnerable",
    "NT": "near threatened",
    "LC": "least concern",
    "DD": "data deficient",
    "NE": "not evaluated",
}
"""IUCN Red List Categories and Criteria, version 3.1: code -> name."""

THREATENED = ("CR", "EN", "VU")
"""Categories that the Red List calls threatened."""

_ENGLISH = ("eng", "en", "en-GB", "en-US")

_CODES = {text.casefold(): code for code, name in RED_LIST.items() for text in (code, name)}


@dataclass(frozen=True)
class Names:
    """Names and categories by `labels.label_key` of a label.

    Attributes
    ----------
    common : the common name
    red_list : the category: a code of `RED_LIST`, or whatever the taxonomy says
    """

    common: Mapping[str, str] = field(default_factory=dict)
    red_list: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, taxonomy: Taxonomy | None, taxa: Sequence[Taxon] = ()) -> Names:
        """Of the job's taxonomy; what it does not say, as the data set itself does (`Reader.taxa`)."""
        common = {
            label_key(taxon.label): name
            for taxon in taxa
            if (name := next((taxon.common[key] for key in _ENGLISH if key in taxon.common), None))
        }
        categories = {label_key(taxon.label): taxon.category for taxon in taxa if taxon.category}
        if taxonomy is not None:
            common |= taxonomy.common
            categories |= taxonomy.categories
        red_list = {
            label: _CODES.get(category.casefold().replace("_", " "), category)
            for label, category in categories.items()
        }
        return cls(common, red_list)

    def common_of(self, label: str) -> str | None:
        return self.common.get(label_key(label))

    def red_list_of(self, label: str) -> str | None:
        return self.red_list.get(label_key(label))

    def is_threatened(self, label: str) -> bool:
        return self.red_list_of(label) in THREATENED
