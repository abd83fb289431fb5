"""Keywords of photos -> labels; `dataset.label` says which keywords are species."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.labels import number_labels
from camtrap_batch.catalog.table import group_labels
from camtrap_batch.errors import InputError
from camtrap_batch.job import Label

_NEXT, _THEN = "\x1f", "\x1e"  # between keywords, and keywords and paths
_NUMBER = re.compile(r"[0-9]{1,9}")


def labels_of_keywords(
    keywords: pa.Table, how: Label, notes: Counter[str]
) -> tuple[pa.Array, list[tuple[int, str]]]:
    """The column `labels`, and the categories.

    Parameters
    ----------
    keywords : columns keywords and paths of schemas.KEYWORDS, a row for each image; null if none were read

    Raises
    ------
    InputError
        No image has a keyword that is a label.
    """
    n = keywords.num_rows
    # A million photos have a few hundred ways to be tagged.
    codes, ways = _ways_to_be_tagged(keywords)
    entries: list[tuple[str, int | None]] = []
    number = np.zeros(len(ways), np.int64)
    for way, ((flat, paths), times) in enumerate(zip(ways, np.bincount(codes).tolist(), strict=True)):
        told: Counter[str] = Counter()
        before = len(entries)
        entries += labels_of(flat, [tuple(path.split("|")) for path in paths], how, told)
        number[way] = len(entries) - before
        notes.update({text: count * times for text, count in told.items()})
    each = number[codes]
    rows = np.repeat(np.arange(n), each)
    at = np.repeat(np.cumsum(number)[codes] - np.cumsum(each), each) + np.arange(len(rows))
    found = [entries[entry] for entry in at.tolist()]
    if not found:
        seen = Counter(word for words in keywords["keywords"].to_pylist() for word in words or [])
        seen += Counter(path for paths in keywords["paths"].to_pylist() for path in paths or [])
        some = ", ".join(repr(word) for word, _ in seen.most_common(5))
        what = f"hierarchy {how.hierarchy!r}" if how.hierarchy is not None else "keywords"
        raise InputError(
            f"dataset.label: {what}: none of {n:,} images has such a keyword; "
            + (f"there are {some}" if some else "they have no keywords at all")
        )
    ids, categories = number_labels([name for name, _ in found], how.empty, notes)
    notes["images without an annotation"] += n - len(np.unique(rows))
    column = group_labels(rows, ids, [count for _, count in found], n, dict(categories))
    return column, categories


def _ways_to_be_tagged(
    keywords: pa.Table,
) -> tuple[npt.NDArray[np.int64], list[tuple[list[str], list[str]]]]:
    """For each image, the number of its keywords and paths among the distinct ones; and the distinct ones."""
    joined = (
        pc.fill_null(pc.binary_join(keywords[name].combine_chunks(), _NEXT), "")
        for name in ("keywords", "paths")
    )
    both = pc.binary_join_element_wise(*joined, _THEN).dictionary_encode()
    ways = [
        tuple([word for word in side.split(_NEXT) if word] for side in text.split(_THEN))
        for text in both.dictionary.to_pylist()
    ]
    return both.indices.to_numpy().astype(np.int64), ways  # type: ignore[return-value]


def labels_of(
    flat: list[str], paths: list[tuple[str, ...]], how: Label, notes: Counter[str]
) -> Iterator[tuple[str, int | None]]:
    """Each species that the keywords of one image name, and how many animals, if they say so."""
    if how.hierarchy is None:
        wanted = None if how.keywords is True else {word.casefold() for word in how.keywords or ()}
        yield from ((word, None) for word in flat if wanted is None or word.casefold() in wanted)
        return
    names = list(_below(how.hierarchy, paths))
    count = None
    if how.count is not None:
        numbers = [int(text) for text in _below(how.count, paths) if _NUMBER.fullmatch(text)]
        if len(numbers) == len(names) == 1:
            (count,) = numbers
        elif numbers:
            notes["images whose keywords have a count and not one species: it is left out"] += 1
    yield from ((name, count) for name in names)


def _below(top: str, paths: list[tuple[str, ...]]) -> Iterator[str]:
    """The last part of each path below a keyword; a path that is the beginning of another is left out."""
    found = []
    for path in paths:
        parts = [part.casefold() for part in path]
        if top.casefold() in parts[:-1]:
            found.append(path[parts.index(top.casefold()) :])
    for path in dict.fromkeys(found):
        if not any(other != path and other[: len(path)] == path for other in found):
            yield path[-1]
