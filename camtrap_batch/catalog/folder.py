"""A folder of images and nothing else -> catalog."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Literal

from camtrap_batch.catalog.base import Reader
from camtrap_batch.catalog.paths import check_locations, labels_of_paths, location_finder
from camtrap_batch.catalog.table import Catalog, Rows, make_catalog
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Label, WithLabel
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import IMAGE_ENDINGS, RAW_ENDINGS, VIDEO_ENDINGS, ending_of

_LISTED = IMAGE_ENDINGS | RAW_ENDINGS | VIDEO_ENDINGS  # files that can't be read are accounted for as well


class FolderDataset(WithLabel):
    needs: ClassVar = {"images": "where the images are"}
    refuses: ClassVar = {
        "metadata": "format folder reads no metadata file: leave out the key `metadata`",
    }

    format: Literal["folder"]


class FolderReader(Reader[FolderDataset]):
    section = FolderDataset
    help = "paths alone"
    ids_are_paths = True
    names_are_given = False

    @property
    def has_labels(self) -> bool:
        return self.dataset.label is not None

    def fingerprint(self) -> dict[str, Any]:
        names = "\n".join(without_run_folders(list(self._root.walk()), Counter()))
        return {"names": hashlib.sha256(names.encode()).hexdigest()}

    def read(self) -> Catalog:
        dataset = self.dataset
        catalog = read_folder(
            self._root.walk(),
            location_finder(dataset.location, dataset.path_label),
            dataset.path_label,
            where=redacted(str(dataset.images)),
            utc_offset=dataset.utc_offset,
        )
        return check_locations(dataset.location, catalog)

    @property
    def _root(self) -> ImageRoot:
        return ImageRoot(str(self.dataset.images), self.dataset.storage_options)


def read_folder(
    names: Iterable[str],
    location_of: Callable[[str], str | None],
    label: Label | None = None,
    *,
    where: str,
    utc_offset: str | None = None,
) -> Catalog:
    """Catalog of the files below a folder.

    Parameters
    ----------
    names : posix paths relative to the image root
    location_of : finds the location in a path
    label : where a path names the species

    Raises
    ------
    InputError
        There is no image among them.
    """
    notes: Counter[str] = Counter()
    files: list[str] = []
    for name in without_run_folders(list(names), notes):
        if ending_of(name) in _LISTED:
            files.append(name)
            if "\ufffd" in name:
                notes["file names that are not UTF-8 and can't be opened; convmv renames them"] += 1
        else:
            notes["files that are neither image nor video, left out"] += 1
    if not files:
        raise InputError(
            f"{where}: no image in this folder (dataset.images); possible: {' '.join(sorted(IMAGE_ENDINGS))}"
        )
    rows = Rows(image_id=files, file_name=files, location=[location_of(name) for name in files])
    labels, categories = labels_of_paths(files, label, notes) if label is not None else (None, [])
    return make_catalog(
        rows,
        labels,
        source="folder",
        where=where,
        categories=categories,
        notes=notes,
        utc_offset=utc_offset,
    )


def without_run_folders(names: Sequence[str], notes: Counter[str]) -> Sequence[str]:
    """File names except those in jobs' run folders, which hold a report's pictures; counted in `notes`."""
    jobs = {name.rpartition("/")[0] for name in names if name.endswith("/job.yaml")}
    folders = tuple(
        f"{job}/"
        for job in jobs
        if any(name.startswith((f"{job}/plans/", f"{job}/snapshots/")) for name in names)
    )
    if not folders:
        return names
    kept = [name for name in names if not name.startswith(folders)]
    notes["files in run folders of jobs, left out"] += len(names) - len(kept)
    return kept
