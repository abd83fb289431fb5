"""What a format of data sets consists of: a `Reader`, and the section of the job file that it reads.

To add one, write a class like those in `csv` or `cct` and name it in `READERS`; a package of your own names
it in its metadata:

    [project.entry-points."camtrap_batch.readers"]
    myformat = "my_package:MyReader"
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Protocol, TypeVar

import pyarrow as pa

from camtrap_batch.catalog.drawn import Drawn
from camtrap_batch.catalog.found import Found, Given
from camtrap_batch.catalog.labels import Taxon
from camtrap_batch.catalog.table import Catalog
from camtrap_batch.catalog.zipped import file_info
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot
from camtrap_batch.job import Dataset
from camtrap_batch.registry import Registry
from camtrap_batch.remote import plain, redacted

Section = TypeVar("Section", bound=Dataset)

_OF_NO_MATTER = frozenset({"metadata", "images", "storage_options", "cameras", "outages", "about"})
_ALWAYS_NAMED = frozenset({"format", "location", "utc_offset"})


class Reader(Protocol, Generic[Section]):
    """Reads data sets of one format; derive from it to inherit what most formats share.

    Attributes
    ----------
    section : `dataset` in the job file: a `Dataset` whose `format` is a Literal with the format's name; it
        checks what can be checked without looking at the data set
    help : what the format is, in a few words
    ids_are_paths : whether images have no id but their path; renamed files then keep their id
    has_boxes : whether the metadata may have boxes of animals (`boxes`)
    names_are_given : whether file names come from metadata, and may be spelt differently from the files' own
    dataset : this job's section
    """

    section: ClassVar[type[Dataset]]
    help: ClassVar[str]
    ids_are_paths: ClassVar[bool] = False
    has_boxes: ClassVar[bool] = False
    names_are_given: ClassVar[bool] = True
    dataset: Section

    def __init__(self, dataset: Section) -> None:
        self.dataset = dataset

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        """The job file's `dataset` for what somebody has (`camtrap init`); None: it is not of this format.

        Raises
        ------
        InputError
            It is of this format, but can't be read.
        """
        return None

    @property
    def has_labels(self) -> bool:
        """Whether the data set may have labels to train on."""
        return True

    def fingerprint(self) -> dict[str, Any]:
        """JSON values that show cheaply whether what describes the data set has changed.

        Raises InputError if it does not exist.
        """
        return file_fingerprint(str(self.dataset.metadata))

    def read(self) -> Catalog:
        """The catalog; `table.make_catalog` makes one from columns. Raises InputError, with file and line."""
        ...

    def cameras(self) -> pa.Table | None:
        """Coordinates of the camera locations, as `cameras.CAMERAS`, if the format itself has them."""
        return None

    def periods(self) -> pa.Table | None:
        """Deployments with their start and end, as `cameras.PERIODS`, if the format itself has them."""
        return None

    def taxa(self) -> list[Taxon]:
        """What labels are called and which groups they are in, if the format itself says so."""
        return []

    def boxes(self, key: str) -> Drawn:
        """Boxes that people drew, if the format `has_boxes`; `key`: the key of the job file, for messages."""
        raise NotImplementedError

    @property
    def package(self) -> str | None:
        """The Camtrap DP package that the data set itself is, which an export returns complete."""
        return None

    def settings(self) -> dict[str, Any]:
        """The keys that the catalog depends on, besides what `fingerprint` looks at; JSON values.

        A key that is not set is left out, so that adding a key to a format does not change existing catalogs.
        """
        content = self.dataset.model_dump(mode="json", exclude=set(_OF_NO_MATTER))
        label = getattr(self.dataset, "label", None)
        for key in label.later if label is not None else ():
            if content["label"][key] is None:
                del content["label"][key]
        fields = type(self.dataset).model_fields
        unset = {
            key for key in content if getattr(self.dataset, key) == fields[key].get_default()
        } - _ALWAYS_NAMED
        return {"location": None, **{key: content[key] for key in content if key not in unset}}

    def images(self, run_url: str) -> ImageRoot:
        """Where the images are; `run_url` is the run folder, which keeps whatever is requested only once."""
        return ImageRoot(str(self.dataset.images), self.dataset.storage_options)


READERS: Registry[type[Reader[Any]]] = Registry(
    "camtrap_batch.readers",
    {
        "feature-layer": "camtrap_batch.catalog.feature_layer:FeatureLayerReader",
        "cct": "camtrap_batch.catalog.cct:CctReader",
        "csv": "camtrap_batch.catalog.csv:CsvReader",
        "camtrap-dp": "camtrap_batch.catalog.camtrap_dp:CamtrapDpReader",
        "folder": "camtrap_batch.catalog.folder:FolderReader",
    },
)
"""Value of `dataset.format` -> its reader. `camtrap init` asks those of packages, then ours in this order."""


def reader_of(dataset: Dataset) -> Reader[Any]:
    """The reader of a job's data set."""
    return READERS[dataset.format](dataset)


def file_fingerprint(path: str) -> dict[str, Any]:
    """Size and time or checksum of a file or URL. Raises InputError if it does not exist or is a folder."""
    try:
        info = file_info(path)
    except FileNotFoundError:
        raise InputError(f"{redacted(path)}: no such file (dataset.metadata)") from None
    except Exception as problem:  # clients of object stores raise their own errors
        raise InputError(f"{redacted(path)}: can't be read (dataset.metadata): {plain(problem)}") from None
    if info.is_folder:
        raise InputError(f"{path}: is a folder (dataset.metadata); it should be a file")
    return {"bytes": info.size, "version": info.version}
