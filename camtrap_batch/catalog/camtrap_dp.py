"""Camtrap DP, a data package of deployments, media and observations -> catalog and camera positions.

Format: camtrap-dp.tdwg.org, version 1.0. docs/camtrap_dp.md explains how its terms become columns.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.base import Reader, file_fingerprint
from camtrap_batch.catalog.cameras import AXES, CAMERAS, PERIODS
from camtrap_batch.catalog.datapackage import DESCRIPTOR, DataPackage, Table, open_package
from camtrap_batch.catalog.drawn import Drawn, drawn_in_package
from camtrap_batch.catalog.found import Found, Given, is_there
from camtrap_batch.catalog.labels import CATEGORY, Taxon, one_name_each
from camtrap_batch.catalog.table import Catalog, finish_catalog, group_labels
from camtrap_batch.catalog.zipped import zip_and_name
from camtrap_batch.dates import NULL_OFFSET, Dates, Order, offset_minutes
from camtrap_batch.errors import InputError
from camtrap_batch.images import ImageRoot, is_unsafe
from camtrap_batch.job import Dataset
from camtrap_batch.remote import redacted
from camtrap_batch.vocabulary import EMPTY

SOURCE = "camtrap-dp"
BY_EVENT = "camtrap-dp-event"
"""Source of a row whose labels were observed in its whole event, not in the image itself."""

_TABLES = ("deployments", "media", "observations")
_RANKS = ("genus", "family", "order", "class", "phylum", "kingdom")
_NAMES = {"blank": EMPTY, "human": "human", "vehicle": "vehicle", "unknown": None, "unclassified": None}
_ANIMAL = "animal"
_MACHINE = "machine"
_VERSION = re.compile(r"camtrap-dp/(?:v)?(\d+)\.(\d+)([^/]*)/")
_URL = r"[A-Za-z][A-Za-z0-9+.-]*://"
_SAMPLE = 200  # number of media looked for, to see under which names a folder has them
_SAMPLE_REMOTE = 20

Ints = npt.NDArray[np.int64]


class CamtrapDpDataset(Dataset):
    format: Literal["camtrap-dp"]


class CamtrapDpReader(Reader[CamtrapDpDataset]):
    section = CamtrapDpDataset
    help = "data package"
    has_boxes = True

    @classmethod
    def recognise(cls, given: Given) -> Found | None:
        """A zip or folder with datapackage.json, or the JSON file itself."""
        url, images, what = given.url, given.url, "a Camtrap DP data package"
        if given.is_zip:
            packages = [name for name in given.names if name.rpartition("/")[2] == DESCRIPTOR]
            if not packages:
                return None
            what += " in a zip"
            if inside := packages[0].rpartition("/")[0]:
                images = f"zip://{inside}::{url}"
        elif given.is_json:
            if not given.has_key("resources"):
                return None
            images = url.rpartition("/")[0]
        elif given.is_folder and not zip_and_name(url) and is_there(f"{url.rstrip('/')}/{DESCRIPTOR}"):
            images = url.rstrip("/")
            url = f"{images}/{DESCRIPTOR}"
        else:
            return None
        dataset = {"format": SOURCE, "metadata": url, "images": images}
        return Found(dataset, [f"{what}: {redacted(url)}"])

    def fingerprint(self) -> dict[str, Any]:
        # The names under which the image root has the files are part of the catalog.
        files = [file_fingerprint(path) for path in package_files(str(self.dataset.metadata))]
        return {"files": files, "images": self.dataset.images}

    def read(self) -> Catalog:
        dataset = self.dataset
        images = ImageRoot(str(dataset.images), dataset.storage_options)
        return read_camtrap_dp(
            str(dataset.metadata), images, utc_offset=dataset.utc_offset, order=dataset.dates
        )

    def cameras(self) -> pa.Table:
        return read_deployment_sites(str(self.dataset.metadata))

    def periods(self) -> pa.Table:
        return read_package_periods(str(self.dataset.metadata), self.dataset.dates)

    def taxa(self) -> list[Taxon]:
        return read_taxa(str(self.dataset.metadata))

    def boxes(self, key: str) -> Drawn:
        return drawn_in_package(str(self.dataset.metadata))

    @property
    def package(self) -> str:
        return str(self.dataset.metadata)


def read_camtrap_dp(
    path: str, images: ImageRoot, *, utc_offset: str | None = None, order: Order | None = None
) -> Catalog:
    """Read a Camtrap DP data package; each of its media is a row.

    Parameters
    ----------
    path : datapackage.json, the folder that holds it, or a .zip of the package; a path or fsspec URL
    images : where the files are; searched to see under which names, see docs/camtrap_dp.md
    utc_offset : offset of timestamps that have none of their own, such as "+02:00"
    order : order of day and month in ambiguous dates

    Raises
    ------
    InputError
        The package is missing, lacks a table or a column, has another version, or has impossible values in
        more than a few rows, with file and line; or its media can't be found in the image root.
    """
    notes: Counter[str] = Counter()
    with opened_package(path, notes) as package:
        deployments = _deployments(package, notes)
        _coordinates(deployments, notes)
        media = _media(package, notes)
        media_deployment = pc.index_in(media["deploymentID"], deployments["deploymentID"].combine_chunks())
        notes["media of a deployment that the package does not list"] += media_deployment.null_count
        file_names = _file_names(media, images, notes)
        dates = media.dates("timestamp", notes, order)
        table = _observations(package, media, deployments, notes)
        clock = _Clock(dates, table, utc_offset, notes, order)
        found = _observed(media, table, clock, notes)
        # Within a second, media of a deployment are in the order of their file names, as the format
        # specifies.
        names = pc.coalesce(media["fileName"], media["filePath"]).to_pandas()
        frames, n_frames = _frames(found.sequence, clock.media, names)
        columns = {
            "image_id": media["mediaID"],
            "file_name": file_names,
            "location": locations_of(deployments).take(media_deployment),
            "deployment": media["deploymentID"],
            "seq_id": found.seq_id,
            "frame_num": frames,
            "seq_num_frames": n_frames,
            "labels": found.labels,
            "source": found.source,
            "labelled_by": found.labelled_by,
            "label_p": found.label_p,
        }
        return finish_catalog(
            columns,
            replace(dates, offsets=clock.offsets),
            where=media.where,
            categories=found.categories,
            notes=notes,
            utc_offset=utc_offset,
            root=images.url,
        )


def read_deployment_sites(path: str) -> pa.Table:
    """Coordinates of a package's locations, as `cameras.CAMERAS`: those of the latest deployment."""
    notes: Counter[str] = Counter()
    with opened_package(path, notes) as package:
        return _coordinates(_deployments(package, notes), notes)


def read_package_periods(path: str, order: Order | None = None) -> pa.Table:
    """When cameras stood at a package's locations, as `cameras.PERIODS`: its deployments.

    An end that is not after its start, or a time that can't be read, counts as missing.
    """
    notes: Counter[str] = Counter()
    with opened_package(path, notes) as package:
        table = _deployments(package, notes)
        starts, ends = (table.dates(name, notes, order) for name in ("deploymentStart", "deploymentEnd"))
        (start, start_offset), (end, end_offset) = ((_noon(dates), dates.offsets) for dates in (starts, ends))
        # Both ends are by the clock of the start.
        known = (start_offset != NULL_OFFSET) & (end_offset != NULL_OFFSET)
        shift = np.where(known, start_offset.astype(np.int64) - end_offset, 0)
        end = end + shift.astype("timedelta64[m]")
        end = np.where(end <= start, np.datetime64("NaT"), end)
        offset = np.where(start_offset == NULL_OFFSET, end_offset, start_offset)
        where = [f"{table.where}: deploymentID {id_}" for id_ in table["deploymentID"].to_pylist()]
        return pa.table(
            {
                "location": locations_of(table),
                "camera": table["cameraID"],
                "deployment": table["deploymentID"],
                "start": pa.array(start.astype("datetime64[us]"), pa.timestamp("us")),
                "end": pa.array(end.astype("datetime64[us]"), pa.timestamp("us")),
                "utc_offset_minutes": pa.array(offset, pa.int32(), mask=offset == NULL_OFFSET),
                "source": pa.repeat("metadata", len(where)),
                "where": pa.array(where, pa.string()),
            },
            schema=PERIODS,
        )


def read_taxa(path: str) -> list[Taxon]:
    """What a package's `taxonomic` says about its species; entries that are not objects are skipped.

    The format has no term for a Red List category, but some packages have one.
    """
    with opened_package(path, Counter()) as package:
        listed = package.descriptor.get("taxonomic")
    found = []
    for entry in listed if isinstance(listed, list) else ():
        if not isinstance(entry, dict) or not isinstance(label := entry.get("scientificName"), str):
            continue
        texts = {_words(key): text for key, text in _texts(entry).items()}
        found.append(
            Taxon(
                label,
                {rank: texts[rank] for rank in _RANKS if rank in texts},
                _texts(entry.get("vernacularNames")),
                next((texts[key] for key in CATEGORY if key in texts), None),
            )
        )
    return found


def _texts(entry: object) -> dict[str, str]:
    """The members of an object that are text."""
    members = entry.items() if isinstance(entry, dict) else ()
    return {key: value for key, value in members if isinstance(value, str) and value.strip()}


def _words(key: str) -> str:
    """iucnCategory -> iucn_category."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", key).lower()


def _noon(dates: Dates) -> npt.NDArray[np.datetime64]:
    """Times; a date without a time is noon."""
    return np.where(dates.date_only, dates.times + np.timedelta64(12, "h"), dates.times)


def package_files(path: str) -> list[str]:
    """Paths or URLs of the files from which a package's catalog is read."""
    with opened_package(path, Counter()) as package:
        return package.files(_TABLES)


@contextmanager
def opened_package(path: str, notes: Counter[str]) -> Iterator[DataPackage]:
    with open_package(path) as package:
        profile = str(package.descriptor.get("profile") or package.descriptor.get("$schema") or "")
        if (version := _VERSION.search(profile)) is not None:
            major, minor, rest = version.groups()
            if major != "1":
                raise InputError(
                    f"{package.where}: profile: Camtrap DP {major}.{minor}{rest} can't be read; it should be "
                    "1.0: export the package again, or convert it"
                )
            if minor != "0":
                notes[f"package of Camtrap DP 1.{minor}{rest}, read as 1.0"] += 1
        yield package


def _deployments(package: DataPackage, notes: Counter[str]) -> Table:
    required = ("deploymentID", "latitude", "longitude")
    table = package.table(
        "deployments",
        required,
        ("locationID", "locationName", "deploymentStart", "deploymentEnd", "cameraID"),
    )
    return table.distinct("deploymentID", notes)


def locations_of(deployments: Table | pa.Table) -> pa.ChunkedArray:
    """The location of each deployment of a package."""
    return pc.coalesce(*(deployments[name] for name in ("locationID", "locationName", "deploymentID")))


def _coordinates(deployments: Table, notes: Counter[str]) -> pa.Table:
    latitude, longitude = (deployments.degrees(axis) for axis in AXES)
    dates = deployments.dates("deploymentStart", notes)
    times, offsets = dates.times, dates.offsets
    places = pd.DataFrame(
        {
            "location": locations_of(deployments).to_numpy(),
            "longitude": longitude,
            "latitude": latitude,
            "start": _instants(times, offsets, None),
        }
    )
    placed = places.dropna(subset=["longitude", "latitude"])
    notes["deployments without coordinates"] += len(places) - len(placed)
    several = placed.groupby("location")[["longitude", "latitude"]].nunique().gt(1).any(axis=1)
    notes["locations whose deployments have different coordinates; the latest are used"] += int(several.sum())
    latest = placed.sort_values("start", kind="stable", na_position="first").drop_duplicates(
        "location", keep="last"
    )
    columns = latest.sort_values("location")[CAMERAS.names]
    return pa.Table.from_pandas(columns, schema=CAMERAS, preserve_index=False).replace_schema_metadata()


def _media(package: DataPackage, notes: Counter[str]) -> Table:
    table = package.table("media", ("mediaID", "deploymentID", "timestamp", "filePath"), ("fileName",))
    if not len(table):
        raise InputError(f"{table.where}: lists no media (dataset.metadata)")
    table = table.distinct("mediaID", notes)
    if (lacking := table["filePath"].null_count) == len(table):
        raise InputError(f"{table.where}: no medium has a filePath")
    notes["media without a filePath, left out"] += lacking
    return table.where_true(pc.is_valid(table["filePath"])) if lacking else table


def _instants(
    times: npt.NDArray[np.datetime64], offsets: npt.NDArray[np.int32], utc_offset: str | None
) -> npt.NDArray[np.datetime64]:
    """Local times -> UTC, in seconds; times with an unknown offset are taken as they are."""
    default = 0 if utc_offset is None else offset_minutes(utc_offset)
    minutes = np.where(offsets == NULL_OFFSET, default, offsets)
    return np.asarray(times.astype("datetime64[s]") - minutes.astype("timedelta64[m]"))


def _file_names(media: Table, images: ImageRoot, notes: Counter[str]) -> pa.Array:
    """Paths of media relative to the image root."""
    paths = media["filePath"].to_pandas()
    names = paths.copy()
    root = f"{images.url.rstrip('/')}/"
    is_web = root.startswith(("http://", "https://"))  # has files only by their URL
    is_url = paths.str.match(_URL).to_numpy(bool)
    is_below = paths.str.startswith(root).to_numpy(bool)
    names[is_below] = paths[is_below].str.removeprefix(root)
    if (inside := ~is_url & ~is_below).any() and not is_web:
        options = {"filePath": paths[inside], **_by_file_name(media, inside)}
        by, found = _best(options, images)
        if found and by != "filePath":
            names[inside] = options[by]
            notes[f"media that {images.url} has by their {by}, not their filePath"] += int(inside.sum())
    if (elsewhere := is_url & ~is_below).any():
        options = {**_by_file_name(media, elsewhere), **_by_url(paths[elsewhere])}
        by, found = ("", 0) if is_web else _best(options, images)
        if not found and elsewhere.all():
            raise _not_there(media, paths[elsewhere], images, options)
        has = f"has by their {by}" if found else "does not have"
        notes[f"media with a URL as filePath that {images.url} {has}"] += int(elsewhere.sum())
        if options:
            names[elsewhere] = options[by] if found else next(iter(options.values()))
    return pa.array(names, pa.string())


def _by_file_name(media: Table, rows: npt.NDArray[np.bool_]) -> dict[str, pd.Series]:
    """Names that media may have been saved under: what they are made of -> names, if they are distinct."""
    files = media["fileName"]
    by_deployment = pc.binary_join_element_wise(media["deploymentID"], files, "/")
    options = {"fileName": files, "deploymentID/fileName": by_deployment}
    return _distinct({by: names.to_pandas()[rows] for by, names in options.items()})


def _by_url(urls: pd.Series) -> dict[str, pd.Series]:
    paths = urls.str.replace(_URL, "", regex=True).str.replace(r"[?#].*", "", regex=True).map(unquote)
    return _distinct({"URL's host and path": paths, "URL's path": paths.str.partition("/")[2]})


def _distinct(options: dict[str, pd.Series]) -> dict[str, pd.Series]:
    return {by: names for by, names in options.items() if names.notna().all() and names.is_unique}


def _best(options: dict[str, pd.Series], images: ImageRoot) -> tuple[str, int]:
    """The option by which most of a sample of files exist, the first among equals; and how many do."""
    best = ("", 0)
    for by, names in options.items():
        most = _SAMPLE_REMOTE if "://" in images.url else _SAMPLE
        sample = names.iloc[np.unique(np.linspace(0, len(names) - 1, most).astype(int))]
        found = sum(_is_there(images, name) for name in sample)
        if found > best[1]:
            best = (by, found)
        if found == len(sample):
            break
    return best


def _is_there(images: ImageRoot, file_name: str) -> bool:
    if is_unsafe(file_name):
        return False
    try:
        images.read(file_name, most=0)
    except OSError:
        return False
    return True


def _not_there(media: Table, urls: pd.Series, images: ImageRoot, options: dict[str, pd.Series]) -> InputError:
    common = _folder_of(urls.min(), urls.max())
    root = repr(common) if common else "the URL that they have in common"
    names = " or ".join(f"{by} ({names.iloc[0]!r})" for by, names in options.items())
    return InputError(
        f"{media.at(urls.index[0])}: filePath: {urls.iloc[0]!r} is a URL that is not below dataset.images, "
        f"{images.url}, and no medium is there by another name; dataset.images should be {root}, or a folder "
        f"that has the files by their {names or 'fileName'}"
    )


def _folder_of(first: str, last: str) -> str | None:
    """The URL below which the alphabetically first and last of some URLs both lie."""
    both = zip(first.split("/")[:-1], last.split("/")[:-1], strict=False)
    parts = [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], both)]
    return "/".join(parts) if len(parts) > 2 else None


# --- what was observed in them


@dataclass(frozen=True)
class _Observed:
    """What was observed in each of n media.

    Attributes
    ----------
    seq_id : event of each medium
    sequence : (n,) number of the event; -1 if there is none
    labels : as returned by `group_labels`
    source : where labels come from
    labelled_by, label_p : as in the catalog: which machine has labelled it, if no person has
    """

    seq_id: pa.Array
    sequence: Ints
    labels: pa.Array
    source: pa.Array
    labelled_by: pa.Array
    label_p: pa.Array
    categories: list[tuple[int, str]]


def _observations(package: DataPackage, media: Table, deployments: Table, notes: Counter[str]) -> Table:
    required = (
        "observationID", "deploymentID", "observationLevel", "observationType", "eventStart", "eventEnd",
    )  # fmt: skip
    optional = (
        "mediaID", "eventID", "scientificName", "count", "classificationMethod", "classifiedBy",
        "classificationProbability",
    )  # fmt: skip
    table = package.table("observations", required, optional).distinct("observationID", notes)
    return _of_what_is_there(_people_first(table, notes), media, deployments, notes)


def _people_first(observations: Table, notes: Counter[str]) -> Table:
    """Drop what a machine observed in a medium or an event in which people also observed something."""
    by_people, by_machine = (
        pc.fill_null(pc.equal(observations["classificationMethod"], method), False)
        for method in ("human", _MACHINE)
    )
    of_event = pc.equal(observations["observationLevel"], "event")
    of_media = pc.invert(of_event)
    overruled = np.zeros(len(observations), np.bool_)
    # Those of a medium, of an event, and of a medium in an event that people observed as a whole.
    for theirs, its, key in (
        (of_media, of_media, "mediaID"),
        (of_event, of_event, "eventID"),
        (of_event, of_media, "eventID"),
    ):
        said = observations[key].filter(pc.and_(by_people, theirs)).drop_null()
        if len(said):
            same = pc.fill_null(pc.is_in(observations[key], said.combine_chunks()), False)
            overruled |= np.asarray(pc.and_(pc.and_(by_machine, its), same).to_numpy(), np.bool_)
    if not overruled.any():
        return observations
    notes["observations by a machine of what people observed too, left out"] += int(overruled.sum())
    return observations.where_true(~overruled)


def _is_of_event(observations: Table) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.equal(observations["observationLevel"], "event").to_numpy(), np.bool_)


class _Clock:
    """Times of media and of observed events on one time line, to tell which media are in which event.

    If both tables have time zones, or neither has, it is UTC. If only one has them, it is what the clocks
    showed, and the other table's times are taken to be in the same zone.

    Attributes
    ----------
    media : (n,) datetime64[s] of the media
    start, end : start and end of the observed events; an event without an end ends when it starts
    """

    def __init__(
        self,
        media: Dates,
        observations: Table,
        utc_offset: str | None,
        notes: Counter[str],
        order: Order | None,
    ) -> None:
        of_events = observations.where_true(_is_of_event(observations))
        starts, ends = (of_events.dates(name, notes, order) for name in ("eventStart", "eventEnd"))
        self._offsets = media.offsets
        self._of_events = starts.offsets
        self._is_shared = False
        has_zone = [(dates.offsets[~np.isnat(dates.times)] != NULL_OFFSET) for dates in (media, starts)]
        if utc_offset is None and all(map(len, has_zone)) and has_zone[0].any() != has_zone[1].any():
            both = (dates.times.astype("datetime64[s]") for dates in (media, starts, ends))
            self.media, self.start, end = both
            self._is_shared = not has_zone[0].any()
            which, other = ("observations", "media") if self._is_shared else ("media", "observations")
            notes[f"times of {other} without a time zone, taken to be in that of the {which}"] += int(
                (~np.isnat((media if self._is_shared else starts).times)).sum()
            )
        else:
            self.media, self.start, end = (
                _instants(dates.times, dates.offsets, utc_offset) for dates in (media, starts, ends)
            )
        self.end = np.where(np.isnat(end), self.start, end)

    @property
    def offsets(self) -> npt.NDArray[np.int32]:
        """Offsets of the media: if only events have offsets, that of the last event that began before."""
        known = np.flatnonzero((self._of_events != NULL_OFFSET) & ~np.isnat(self.start))
        if not self._is_shared or not len(known):
            return self._offsets
        known = known[np.argsort(self.start[known], kind="stable")]
        before = np.searchsorted(self.start[known], self.media, side="right") - 1
        found = self._of_events[known][np.clip(before, 0, len(known) - 1)]
        return np.where(np.isnat(self.media), self._offsets, found)


def _observed(media: Table, table: Table, clock: _Clock, notes: Counter[str]) -> _Observed:
    marks = _marks(table, media, notes)
    is_event = _is_of_event(table)
    of_media, of_events = marks[~is_event], marks[is_event]
    start, instants = clock.start, clock.media
    of_events = of_events.assign(start=start, end=clock.end)
    notes["observations of an event without a time or an eventID, left out"] += int(
        (np.isnat(start) & of_events["event"].isna()).sum()
    )
    key = ["deployment", "event", "start", "end"]
    of_events["span"] = of_events.groupby(key, sort=False, dropna=False).ngroup()
    spans = of_events[[*key, "span"]].drop_duplicates("span").set_index("span")

    n = len(media)
    is_judged = np.zeros(n, bool)
    is_judged[of_media["medium"][of_media["is_judged"]]] = True
    events = pd.DataFrame({"deployment": _deployment_numbers(media["deploymentID"], media)})
    own = of_media.dropna(subset="event").drop_duplicates("medium").set_index("medium")["event"]
    events["event"] = own.reindex(events.index)
    inside = _inside(spans, events["deployment"].to_numpy(), instants, ~is_judged | events["event"].isna())
    # If events overlap, a medium belongs to the one that began last, and of those to the shortest.
    in_span = inside.join(spans, on="span").dropna(subset="event")
    in_span = in_span.sort_values(["start", "end"], ascending=[False, True], kind="stable")
    by_time = in_span.drop_duplicates("medium").set_index("medium")["event"]
    events["event"] = events["event"].fillna(by_time.reindex(events.index))

    named = events[~is_judged].rename_axis("medium").reset_index().dropna(subset="event")
    named = named.merge(spans.reset_index(), on=["deployment", "event"])
    pairs = pd.concat([inside[~is_judged[inside["medium"]]], named[["span", "medium"]]]).drop_duplicates()
    spread = _spread(of_events, pairs)
    # Events that contain some medium, even one that was judged by itself.
    met = _inside(spans, events["deployment"].to_numpy(), instants, np.ones(n, bool))["span"]
    ours = events.dropna(subset="event").merge(spans.reset_index(), on=["deployment", "event"])["span"]
    is_timed = ~np.isnat(of_events["start"].to_numpy()) | of_events["event"].notna().to_numpy()
    is_met = of_events["span"].isin({*met, *ours}).to_numpy()
    notes["observations of events without media, left out"] += int((is_timed & ~is_met).sum())
    labels, categories = _labels(pd.concat([of_media[[*spread.columns]], spread]), n, notes)
    is_spread = np.isin(np.arange(n), spread["medium"])
    labelled_by, label_p = _machines(of_media, of_events, pairs, n, notes)
    return _Observed(
        pa.array(events["event"], pa.string(), from_pandas=True),
        np.asarray(events.groupby(["deployment", "event"], sort=False).ngroup().fillna(-1), np.int64),
        labels,
        pa.array(np.where(is_spread, BY_EVENT, SOURCE), pa.string()),
        labelled_by,
        label_p,
        categories,
    )


def _machines(
    of_media: pd.DataFrame, of_events: pd.DataFrame, pairs: pd.DataFrame, n: int, notes: Counter[str]
) -> tuple[pa.Array, pa.Array]:
    """For each of n media that only a machine has labelled: which machine, and its highest probability."""
    columns = ["medium", "by", "p"]
    of_spans = of_events.dropna(subset="name")[["span", "by", "p"]].merge(pairs, on="span")
    said = pd.concat([of_media.dropna(subset="name")[columns], of_spans[columns]])
    by_people = said.loc[said["by"].isna(), "medium"]
    by_machine = said[~said["medium"].isin(by_people)].groupby("medium")
    notes["images that a machine has labelled, and no person"] += by_machine.ngroups
    rows = np.arange(n)
    return (
        pa.array(by_machine["by"].first().reindex(rows), pa.string(), from_pandas=True),
        pa.array(by_machine["p"].max().reindex(rows), pa.float32(), from_pandas=True),
    )


def _of_what_is_there(table: Table, media: Table, deployments: Table, notes: Counter[str]) -> Table:
    """Observations at a valid level, of media and deployments that exist."""
    level = table["observationLevel"]
    is_media, is_event = (
        pc.fill_null(pc.equal(level, name), False).to_numpy() for name in ("media", "event")
    )
    has_medium, has_deployment = (
        pc.is_in(table[name], of[name].combine_chunks(), skip_nulls=True).to_numpy()
        for name, of in (("mediaID", media), ("deploymentID", deployments))
    )
    for what, number in (
        ("whose observationLevel is neither media nor event", ~is_media & ~is_event),
        ("of media that the package does not list", is_media & ~has_medium),
        ("of a deployment that the package does not list", is_event & ~has_deployment),
    ):
        notes[f"observations {what}, left out"] += int(number.sum())
    return table.where_true((is_media & has_medium) | (is_event & has_deployment))


def _marks(table: Table, media: Table, notes: Counter[str]) -> pd.DataFrame:
    """Observations: numbers of medium and deployment (-1: none), event, name, count, by, p.

    `name` is null if there is nothing to name; `is_judged` is false if nobody looked; `by` is the machine
    that says so, null if that is not given; `p` is how sure it is.
    """
    kinds = pc.utf8_lower(table["observationType"]).to_pandas()
    is_strange = ~kinds.isin([_ANIMAL, *_NAMES])
    notes["observations of an observationType that Camtrap DP does not have, left out"] += int(
        is_strange.sum()
    )
    species = table["scientificName"].to_pandas().fillna(_ANIMAL)
    most = 2**31 - 1
    counts = table.numbers("count", -most, most, f"a whole number, at most {most}", whole=True)
    is_machine = table["classificationMethod"].to_pandas() == _MACHINE
    return pd.DataFrame(
        {
            "medium": _positions_in(table["mediaID"], media["mediaID"]),
            "deployment": _deployment_numbers(table["deploymentID"], media),
            "event": table["eventID"].to_pandas(),
            "name": species.where(kinds == _ANIMAL, kinds.map(_NAMES)),
            "count": np.where(counts < 1, np.nan, counts),
            "is_judged": ~is_strange & (kinds != "unclassified"),
            "by": table["classifiedBy"].to_pandas().fillna(_MACHINE).where(is_machine),
            "p": pd.to_numeric(table["classificationProbability"].to_pandas(), errors="coerce"),
        }
    )


def _deployment_numbers(ids: pa.ChunkedArray, media: Table) -> Ints:
    return _positions_in(ids, media["deploymentID"].unique())


def _positions_in(values: pa.ChunkedArray, of: pa.Array | pa.ChunkedArray) -> Ints:
    """Index of each value in `of`; -1: not there."""
    values_of = of.combine_chunks() if isinstance(of, pa.ChunkedArray) else of
    return np.asarray(pc.fill_null(pc.index_in(values, values_of), -1).to_numpy(), np.int64)


def _inside(
    spans: pd.DataFrame, deployment: Ints, instants: npt.NDArray[np.datetime64], is_open: Any
) -> pd.DataFrame:
    """Pairs of a span and an open medium of its deployment that was taken within the span."""
    media = np.flatnonzero(np.asarray(is_open, bool) & ~np.isnat(instants))
    spans = spans.dropna(subset=["start"])
    if not len(media) or not len(spans):
        return pd.DataFrame({"span": [], "medium": []}, dtype=np.int64)
    second = instants.astype("datetime64[s]").astype(np.int64)
    first, last = second[media].min(), second[media].max()

    def line_up(deployment: Ints, second: Ints) -> Ints:
        """All deployments' times laid end to end, with a second to spare before and after each."""
        return np.asarray(deployment * (last - first + 3) + np.clip(second - first + 1, 0, last - first + 2))

    at = line_up(deployment[media], second[media])
    order = np.argsort(at, kind="stable")
    start, end = (
        line_up(spans["deployment"].to_numpy(), spans[name].to_numpy("datetime64[s]").astype(np.int64))
        for name in ("start", "end")
    )
    begin = np.searchsorted(at[order], start, side="left")
    number = np.maximum(np.searchsorted(at[order], end, side="right") - begin, 0)
    position = np.arange(number.sum()) + np.repeat(begin - np.cumsum(number) + number, number)
    return pd.DataFrame({"span": np.repeat(spans.index.to_numpy(), number), "medium": media[order[position]]})


def _spread(of_events: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """What was observed in events, for each of their media: medium, name, count.

    Within an event the counts of a name add up; if a medium is in several events, the largest count is used.
    """
    named = of_events.dropna(subset="name").groupby(["span", "name"], sort=False)["count"]
    marks = pairs.merge(named.sum(min_count=1).reset_index(), on="span")
    return marks.groupby(["medium", "name"], sort=False)["count"].max().reset_index()


def _labels(marks: pd.DataFrame, n_media: int, notes: Counter[str]) -> tuple[pa.Array, list[tuple[int, str]]]:
    marks = marks.dropna(subset="name")
    one = one_name_each(marks["name"], notes)
    marks = marks.assign(name=marks["name"].map(one))
    # Ids follow the alphabet: the same package gives the same ids.
    species = sorted(set(marks["name"].unique()) - {EMPTY})
    number_of = {EMPTY: 0, **{name: number for number, name in enumerate(species, 1)}}
    category = marks["name"].map(number_of).to_numpy(np.int64)
    names = {number: name for name, number in number_of.items() if number or (category == 0).any()}
    notes["images without an annotation"] += n_media - marks["medium"].nunique()
    labels = group_labels(marks["medium"].to_numpy(np.int64), category, marks["count"].array, n_media, names)
    return labels, sorted(names.items())


def _frames(
    sequence: Ints, instants: npt.NDArray[np.datetime64], names: pd.Series
) -> tuple[pa.Array, pa.Array]:
    """Position of each medium in its sequence, from 0, and how many it has."""
    media = pd.DataFrame({"sequence": sequence, "instant": instants, "name": names})
    in_order = media[sequence >= 0].sort_values(["sequence", "instant", "name"], kind="stable")
    by_sequence = in_order.groupby("sequence", sort=False)["sequence"]
    position, number = (
        pa.array(column.reindex(media.index).astype("Int32"), pa.int32(), from_pandas=True)
        for column in (by_sequence.cumcount(), by_sequence.transform("size"))
    )
    return position, number
