"""Names of species as people write them -> one name per species."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from camtrap_batch.vocabulary import EMPTY, INVISIBLE

# Behind a genus, a species or a subspecies: (Linnaeus, 1758) or Linnaeus, 1758.
_AUTHOR = re.compile(
    r"(?P<name>[^\W\d_][\w-]*(?: [a-z][a-z-]+){0,2}),? "
    r"(?:\([^\W\d_][^()]*\d{4}\)|[^\W\d_a-z][^()\d]*\d{4}|\(?L\.\)?)"
)
_SHOWN = 3
_MOST_SPECIES = 5  # in one cell
_SIGNS: tuple[tuple[str, Callable[[Iterable[object]], bool]], ...] = (
    (";", any),
    ("|", any),
    ("+", all),
    ("&", all),
    (",", all),
    ("/", all),
)

CATEGORY = ("red_list", "iucn", "iucn_category", "red_list_category", "conservation_status")
"""Names of a column with a category such as EN, which is not a rank; `publish.sensitive` may name it."""


@dataclass(frozen=True)
class Taxon:
    """What a data set says about a label.

    Attributes
    ----------
    label : as images are labelled
    above : rank, in lower case -> name of the group that it is in
    common : language -> the name that people use
    category : category of threat, such as EN
    """

    label: str
    above: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, str] = field(default_factory=dict)
    category: str | None = None


_DROPPED = dict.fromkeys(map(ord, INVISIBLE))


def tidy_label(text: str) -> str:
    """A label with single blanks inside and none around it.

    >>> tidy_label(" Vulpes\\xa0 vulpes")
    'Vulpes vulpes'
    """
    return " ".join(text.translate(_DROPPED).split())


def label_key(text: str) -> str:
    """What two ways of writing a label have in common: it ignores case, author and year.

    >>> label_key("Vulpes vulpes (Linnaeus, 1758)"), label_key("Lion 2")
    ('vulpes vulpes', 'lion 2')
    """
    return without_author(text).casefold()


def without_author(text: str) -> str:
    """A label without the author and year behind it.

    >>> without_author("Vulpes  vulpes (Linnaeus, 1758)")
    'Vulpes vulpes'
    """
    text = tidy_label(text)
    match = _AUTHOR.fullmatch(text)
    return match["name"] if match else text


def number_labels(
    labels: Sequence[str], empty: Iterable[str], notes: Counter[str]
) -> tuple[npt.NDArray[np.int64], list[tuple[int, str]]]:
    """Category id of each label, and the categories; 0 means no animal.

    Parameters
    ----------
    empty : names, in upper or lower case, that mean: no animal
    """
    one = one_name_each(labels, notes)
    nothing = {name.casefold() for name in empty}
    name_of = {label: EMPTY if name.casefold() in nothing else name for label, name in one.items()}
    # Ids follow the alphabet: the same labels give the same ids.
    names = sorted({*name_of.values()} - {EMPTY})
    number_of = {name: number for number, name in enumerate(names, 1)} | {EMPTY: 0}
    id_of = {label: number_of[name] for label, name in name_of.items()}
    ids = np.array([id_of[label] for label in labels], np.int64)
    has_empty = EMPTY in name_of.values()
    return ids, sorted((number, name) for name, number in number_of.items() if number or has_empty)


def one_name_each(labels: Iterable[str], notes: Counter[str]) -> dict[str, str]:
    """Each spelling of a label -> the name that it gets: without author, in the most frequent spelling.

    `labels` may repeat; labels with several spellings are reported in `notes`.
    """
    counts = Counter(labels)
    ways: dict[str, Counter[str]] = {}
    for text, count in counts.items():
        ways.setdefault(label_key(text), Counter())[tidy_label(text)] += count
    names: dict[str, str] = {}
    for key, written in ways.items():
        bare = {text: count for text, count in written.items() if text.casefold() == key}
        if bare:
            names[key] = min(bare, key=lambda text: (-bare[text], text))
        else:
            names[key] = next(text for text in written)[: len(key)]
        if len(written) > 1:
            others = sorted(set(written) - {names[key]})
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            listed = ", ".join(map(repr, others[:_SHOWN]))
            notes[f"label spelt in several ways, taken to be {names[key]!r}: {listed}{more}"] += 1
    return {text: names[label_key(text)] for text in counts}


def split_cell(text: str, between: str) -> list[str]:
    """The parts of a text that names several things.

    >>> split_cell("fox;  badger; ", ";")
    ['fox', 'badger']
    """
    return [part.strip() for part in text.split(between) if part.strip()]


def several_in_one(labels: Iterable[str | None]) -> dict[str, list[str]]:
    """Labels that seem to name several species, by what stands between: something that no name contains, or
    that stands between parts that are all labels of their own."""
    distinct = Counter(label for label in labels if label)
    known = {label_key(label) for label in distinct}
    found: dict[str, list[str]] = {}
    for label, times in distinct.items():
        for sign, enough in _SIGNS:
            parts = split_cell(label, sign)
            # Anything with more parts is a taxon with everything that it belongs to.
            if 2 <= len(parts) <= _MOST_SPECIES and enough(label_key(part) in known for part in parts):
                found.setdefault(sign, []).extend([label] * times)
                break
    return found
