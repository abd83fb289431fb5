"""The classes that a job selects: names and ids of the data set's categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from camtrap_batch.errors import JobError, choices
from camtrap_batch.job import Job
from camtrap_batch.model.info import ModelInfo
from camtrap_batch.vocabulary import EMPTY

Categories = Sequence[tuple[int, str]]


@dataclass(frozen=True)
class Classes:
    """The result of the job's `select.classes` and `select.empty.class`.

    Attributes
    ----------
    labels : category id -> label, for every chosen category; categories with one name are one class
    empty : label of the class without an animal, None if the data set has no such category
    """

    labels: dict[int, str]
    empty: str | None

    @property
    def ids_by_label(self) -> dict[str, list[int]]:
        """The data set's ids for each label; none for a label that people gave only in review."""
        ids: dict[str, list[int]] = {}
        for number, label in sorted(self.labels.items()):
            ids.setdefault(label, []).extend([number] if number >= 0 else [])
        return ids


def choose_classes(job: Job, categories: Categories) -> Classes:
    """Resolve the job's class ids and names.

    The empty class is always among them, unless `select.empty.fraction` is 0.

    Raises
    ------
    JobError
        An id or a name does not exist in the data set.
    """
    names = dict(categories)
    by_name: dict[str, list[int]] = {}
    for number, name in categories:
        by_name.setdefault(name.casefold(), []).append(number)

    def resolve(given: int | str, key: str) -> list[int]:
        found = (
            [given] if isinstance(given, int) and given in names else by_name.get(str(given).casefold(), [])
        )
        if not found:
            known = list(names.values()) if isinstance(given, str) else [str(number) for number in names]
            raise JobError(f"{key}: the data set has no class {given!r}; {choices(str(given), known)}")
        return found

    wanted = job.select.empty.class_
    # A data set without the default category 0 simply has no empty images; a name the user chose must exist.
    empty_ids = resolve(wanted, "select.empty.class") if wanted != 0 or 0 in names else []
    empty = names[empty_ids[0]] if empty_ids else None
    chosen = set(names) if job.select.classes is None else set()
    for given in job.select.classes or []:
        chosen.update(resolve(given, "select.classes"))
    chosen -= set(empty_ids)
    if job.select.empty.fraction > 0:
        chosen.update(empty_ids)
    return Classes(
        {number: empty if number in empty_ids and empty else names[number] for number in sorted(chosen)},
        empty,
    )


def check_classes(job: Job, categories: Categories) -> None:
    """Raise JobError if the job selects a class that does not exist; without categories nothing is
    checked."""
    if categories:
        choose_classes(job, categories)


def empty_of_data_set(job: Job, categories: Categories) -> str:
    """The label that means: no animal, if there is no model to say which it is.

    Raises JobError if `select.empty.class` does not exist in the data set.
    """
    empty = choose_classes(job, categories).empty if categories else None
    return empty or EMPTY


def empty_class(job: Job, info: ModelInfo) -> str:
    """The model's label that means: no animal."""
    wanted = job.select.empty.class_
    for label, ids in zip(info.classes, info.category_ids, strict=True):
        if wanted in ids or label.casefold() == str(wanted).casefold():
            return label
    return EMPTY
