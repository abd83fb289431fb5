"""What is reviewed: the sequences of a run, their frames, and what is known about them.

Tables are read once, as columns; a sequence is a number. What people said is read again before each decision,
so that several may review the same run at a time. With many images, the first sequences can be read alone.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.catalog.labels import label_key
from camtrap_batch.codes import Ints, encode, one_chunk
from camtrap_batch.detection.base import meaning
from camtrap_batch.detection.people import (
    LABELLED,
    LEAST,
    SURE,
    WHOLE,
    Box,
    is_person,
    labelled_people,
)
from camtrap_batch.errors import InputError
from camtrap_batch.events.taxonomy import Taxonomy, taxonomy_of
from camtrap_batch.review.boxes import settle_boxes
from camtrap_batch.review.matching import PERSON, spell
from camtrap_batch.review.order import Evidence
from camtrap_batch.review.rows import RunRows
from camtrap_batch.review.sample import Draw, bring_draw, find_rows
from camtrap_batch.store.corrections import (
    JOURNAL,
    TRAITS,
    Correction,
    read_corrections,
    standing,
    write_journal,
)
from camtrap_batch.store.manifest import categories_of
from camtrap_batch.store.run import Run
from camtrap_batch.store.schemas import CORRECTIONS
from camtrap_batch.vocabulary import EMPTY, UNCERTAIN, plural

_FRAMES = ["image_id", "file_name", "location", "seq_id"]
_MANIFEST = [
    "image_id", "sha256", "datetime", "is_night", "thumbnail_file", "thumbnail_row", "video_s", "bytes",
]  # fmt: skip
_LIKELIEST = 5
_LEAST_EVIDENCE = 0.02


@dataclass(frozen=True)
class Wanted:
    """Which sequences are requested; None: any.

    Attributes
    ----------
    label, camera : as in the tables
    least, most : confidence
    first, last : dates
    is_night : whether its first frame was taken in infrared light
    state : open, done, uncertain, disagree (with the metadata), disputed (among people)
    text : in the label or the camera's name
    """

    label: str | None = None
    camera: str | None = None
    least: float | None = None
    most: float | None = None
    first: dt.date | None = None
    last: dt.date | None = None
    is_night: bool | None = None
    state: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Said:
    """What a person decided about a sequence."""

    decision: str
    who: str
    when: dt.datetime
    labels: tuple[dict[str, Any], ...] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        return {
            "decision": self.decision,
            "who": self.who,
            "when": self.when.isoformat(timespec="seconds"),
            "labels": list(self.labels),
        }


class AtOdds(Exception):
    """Somebody else has decided in the meantime: sequence -> what they said."""

    def __init__(self, said: dict[int, Said]) -> None:
        super().__init__(f"{plural(len(said), 'sequence was', 'sequences were')} decided by somebody else")
        self.said = said


def read_sequences(run: Run) -> pa.Table:
    """The sequences to look at, one row each.

    Raises
    ------
    InputError
        There is no result of `merge` yet, or it has none.
    """
    if run.current("sequences") is None:
        raise InputError(
            f"{run.folder.url}: the table sequences is not there yet; `camtrap reprocess` makes it, with "
            "what comes before it"
        )
    sequences = run.table("sequences").to_table()
    if not sequences.num_rows:
        raise InputError(f"{run.folder.url}: there is no sequence to look at")
    # A sequence in which people saw several species has a row for each, but is looked at only once.
    key = _key(sequences).dictionary_encode().indices.to_numpy()
    return sequences.take(pa.array(np.sort(np.unique(key, return_index=True)[1])))


class Items:
    """The sequences of a run's current result of `merge`.

    Parameters
    ----------
    sequences : as `read_sequences` gives them
    some : numbers of the sequences whose images are read; None: all

    Raises
    ------
    InputError
        As `read_sequences` and `RunRows.read`.
    """

    def __init__(self, run: Run, sequences: pa.Table | None = None, some: Ints | None = None) -> None:
        self.run = run
        sequences = read_sequences(run) if sequences is None else sequences
        of_some = ["location", "seq_id"]
        self._rows = RunRows(run, None if some is None else sequences.select(of_some).take(pa.array(some)))
        self.seq_id = one_chunk(sequences["seq_id"])
        self.location = one_chunk(sequences["location"])
        self.label = one_chunk(sequences["label"])
        self.start = one_chunk(sequences["start"])
        self.confidence = _numbers(sequences["confidence"])
        self.rank = one_chunk(sequences["rank"])
        self.source = one_chunk(sequences["label_source"])
        self.n_images = _numbers(sequences["n_images"]).astype(int)
        frames, manifest = self._rows.read("frames", _FRAMES), self._rows.read("manifest", _MANIFEST)
        rows = pc.index_in(one_chunk(frames["image_id"]), one_chunk(manifest["image_id"]))
        self.frames = frames
        self.images = manifest.take(rows)
        self._of = pc.fill_null(pc.index_in(_key(frames), _key(sequences)), -1).to_numpy()
        self._by_sequence = np.argsort(self._of, kind="stable")
        self._starts = np.searchsorted(self._of[self._by_sequence], np.arange(len(self) + 1))
        start = np.where(np.diff(self._starts) > 0, self._starts[:-1], -1)
        first = np.append(self._by_sequence, 0)[start]
        night = one_chunk(self.images["is_night"]).take(pa.array(first, mask=start < 0))
        self.is_night = pc.fill_null(night, False).to_numpy(zero_copy_only=False)
        self.said: dict[int, Said] = {}
        self._drawn: dict[int, tuple[str, float]] = {}
        self._read: tuple[int, frozenset[str]] | None = None
        self.read_what_was_said()

    def __len__(self) -> int:
        return len(self.seq_id)

    def draw(self, n: int, seed: int = 0) -> Ints:
        """The sequences of a random sample, in the order to review them; decisions about them say so."""
        drawn: Draw = bring_draw(
            self.run, self.location, self.seq_id, self.label, self.confidence, n=n, seed=seed
        )
        rows = find_rows(drawn, self.location, self.seq_id)
        for row, probability in zip(rows.tolist(), drawn.probability, strict=True):
            self._drawn[row] = (drawn.name, probability)
        return rows[rows >= 0]

    def frames_of(self, number: int) -> Ints:
        """A sequence's rows of `frames` and `images`, in their order."""
        rows: Ints = self._by_sequence[self._starts[number] : self._starts[number + 1]]
        return rows

    @cached_property
    def empty(self) -> str:
        """The label that means: no animal."""
        found: str = self.run.snapshot("locations").meta.get("empty") or EMPTY
        return found

    @cached_property
    def labels(self) -> list[str]:
        """Every possible label, sorted: classes, categories, and labels that occur."""
        found = set(self.label.drop_null().unique().to_pylist()) - {UNCERTAIN}
        if (predictions := self.run.current("predictions")) is not None:
            found.update(predictions.meta.get("classes") or ())
        if (catalog := self.run.current("catalog")) is not None:
            found.update(name for _, name in categories_of(catalog.meta))
        if (taxonomy := self.taxonomy) is not None:
            known = {label_key(name) for name in found}
            found.update(name for name in taxonomy.groups if name not in known)
        if not any(map(is_person, found)):
            found.add(PERSON)
        return sorted(found | {self.empty}, key=str.casefold)

    @cached_property
    def person(self) -> str:
        """The label that means: a person; the data set's own word, if it has one."""
        return spell(PERSON, {label_key(label): label for label in self.labels}, self.empty)

    @cached_property
    def taxonomy(self) -> Taxonomy | None:
        """The job's `events.taxonomy`, to find labels by."""
        return taxonomy_of(self.run.job.events.taxonomy)

    @cached_property
    def common_names(self) -> dict[str, str]:
        """Label -> its common name, if the taxonomy has one."""
        known = self.taxonomy.common if self.taxonomy else {}
        return {label: known[label_key(label)] for label in self.labels if known.get(label_key(label))}

    @cached_property
    def other_names(self) -> dict[str, list[str]]:
        """Label -> its common name and its groups, if the taxonomy has them."""
        if (taxonomy := self.taxonomy) is None:
            return {}
        common = self.common_names
        found = {
            label: [
                *([common[label]] if label in common else []),
                *(name for _, name in taxonomy.above(label)),
            ]
            for label in self.labels
        }
        return {label: names for label, names in found.items() if names}

    @cached_property
    def truth(self) -> pa.Array:
        """What the metadata say about each sequence: the label of its frames, if they have just one."""
        catalog = self._rows.read("catalog", ["image_id", "labels"])
        names: list[str | None] = [None] * len(self)
        labels = one_chunk(catalog["labels"])
        some = pc.list_element(labels.filter(pc.greater(pc.list_value_length(labels), 0)), 0)
        ids = one_chunk(catalog["image_id"]).filter(pc.greater(pc.list_value_length(labels), 0))
        if not len(ids):
            return pa.array(names, pa.string())
        row = pc.fill_null(pc.index_in(one_chunk(self.frames["image_id"]), ids), -1).to_numpy()
        code, texts = encode(pc.struct_field(some, "name"))
        of_frame = np.where(row >= 0, code[np.maximum(row, 0)], -1)
        ordered = of_frame[self._by_sequence]
        for number in np.flatnonzero(np.diff(self._starts)).tolist():
            here = ordered[self._starts[number] : self._starts[number + 1]]
            here = np.unique(here[here >= 0])
            animals = [text for text in texts.take(pa.array(here)).to_pylist() if text != self.empty]
            if len(animals) == 1 or (not animals and len(here)):
                names[number] = animals[0] if animals else self.empty
        return pa.array(names, pa.string())

    @cached_property
    def evidence(self) -> Evidence:
        """For orders: the label's confidence, and what else the frames may show."""
        sequence, species, probability = self._likely()
        groups = self.rank.is_valid().to_numpy(zero_copy_only=False)
        special = pc.or_(pc.is_null(self.label), pc.is_in(self.label, pa.array([self.empty, UNCERTAIN])))
        return Evidence(
            self.location,
            self.label,
            self.confidence,
            ~groups & ~special.to_numpy(zero_copy_only=False),
            sequence,
            species,
            probability,
        )

    def _likely(self) -> tuple[Ints, pa.Array, npt.NDArray[np.float64]]:
        """Sequence, class and mean probability of the frames' most likely classes, without empty."""
        nothing = np.array([], np.int64), pa.array([], pa.string()), np.array([], np.float64)
        predictions = self._rows.get("predictions", ["image_id", "top5"]) if len(self._of) else None
        if predictions is None:
            return nothing
        top = one_chunk(predictions["top5"])
        frame = pc.fill_null(
            pc.index_in(one_chunk(predictions["image_id"]), one_chunk(self.frames["image_id"])), -1
        ).to_numpy()
        of = np.where(frame >= 0, self._of[np.maximum(frame, 0)], -1)
        lengths = pc.fill_null(pc.list_value_length(top), 0).to_numpy()
        flat = pc.list_flatten(top)
        sequence = np.repeat(of, lengths)
        code, texts = encode(pc.struct_field(flat, "label"))
        p = _numbers(pc.struct_field(flat, "p"))
        keep = (sequence >= 0) & (code >= 0)
        key, index = np.unique(sequence[keep] * len(texts) + code[keep], return_inverse=True)
        total = np.bincount(index, p[keep], len(key))
        number, which = key // max(1, len(texts)), key % max(1, len(texts))
        mean = total / np.maximum(1, np.diff(self._starts))[number]
        is_empty = np.isin(which, np.flatnonzero([text == self.empty for text in texts.to_pylist()]))
        kept = (mean >= _LEAST_EVIDENCE) & ~is_empty
        return number[kept], texts.take(pa.array(which[kept])), mean[kept]

    def spelled(self, label: str) -> str:
        """A label as it is written elsewhere: as a class, or as somebody wrote it first."""
        spelling = {label_key(name): name for name in (*self.labels, self.empty)}
        for name in self._corrections["label"].drop_null().unique().to_pylist():
            spelling.setdefault(label_key(name), name)
        return spell(label, spelling, self.empty)

    def likeliest(self, number: int) -> list[tuple[str, float]]:
        """The classes that a sequence most probably shows, with their probability."""
        # `_likely` is sorted by sequence, so no table has to be read for this.
        evidence = self.evidence
        first, last = np.searchsorted(evidence.sequence, (number, number + 1))
        labels = evidence.species.slice(first, last - first).to_pylist()
        found = list(zip(labels, evidence.probability[first:last].tolist(), strict=True))
        own, p = self.label[number].as_py(), float(self.confidence[number])
        if own == self.empty and not np.isnan(p):
            found.append((own, p))
        return sorted(found, key=lambda item: (-item[1], item[0]))[:_LIKELIEST]

    def boxes(self, number: int) -> dict[str, list[dict[str, Any]]]:
        """Image id -> boxes in a sequence's frames, if a detector has found any."""
        return {
            self.frames["image_id"][row].as_py(): boxes
            for row in self.frames_of(number).tolist()
            if (boxes := self._boxes_of(row))
        }

    def people_in(self, row: int) -> list[Box]:
        """Where a frame shows people, by a detector's boxes and by its label (see `detection.people`)."""
        boxes = [box for box in self._boxes_of(row) if meaning(box["category"]) == "person"]
        found = [(box["x"], box["y"], box["w"], box["h"]) for box in boxes if box["confidence"] >= LEAST]
        image_id = self.frames["image_id"][row].as_py()
        by_people, by_machine = self._people
        is_told = image_id in by_people
        if (said := self.said.get(int(self._of[row]))) is not None:
            is_told |= any(is_person(one["label"]) for one in said.labels)
        else:
            is_told |= image_id in by_machine
        if is_told and not any(box["confidence"] >= SURE for box in boxes):
            return [WHOLE]
        return found

    @cached_property
    def _people(self) -> tuple[set[str], set[str]]:
        """Ids of images labelled as a person: by people, or through their sequence; and by a machine."""
        return labelled_people(*(self._rows.get(name, columns) for name, columns in LABELLED.items()))

    def _boxes_of(self, row: int) -> list[dict[str, Any]]:
        if self._boxes is None:
            return []
        rows, table = self._boxes
        first, last = np.searchsorted(rows, (row, row + 1))
        found: list[dict[str, Any]] = table.slice(first, last - first).to_pylist()
        return found

    @cached_property
    def _boxes(self) -> tuple[Ints, pa.Table] | None:
        """Frame of each box, ascending, and the boxes."""
        columns = ["image_id", "x", "y", "w", "h", "category", "confidence"]
        table = self._rows.get("detections", columns)
        if table is None:
            return None
        ids = one_chunk(self.frames["image_id"])
        row = pc.fill_null(pc.index_in(one_chunk(table["image_id"]), ids), -1).to_numpy().astype(np.int64)
        order = np.argsort(row, kind="stable")
        return row[order], table.drop_columns(["image_id"]).take(pa.array(order)).combine_chunks()

    def select(self, wanted: Wanted) -> npt.NDArray[np.bool_]:
        """Which sequences match the request, (n,)."""
        keep = np.ones(len(self), bool)

        def only(condition: Any) -> None:
            found = condition if isinstance(condition, np.ndarray) else pc.fill_null(condition, False)
            keep[:] &= found if isinstance(found, np.ndarray) else found.to_numpy(zero_copy_only=False)

        if wanted.label is not None:
            only(pc.equal(self.label, wanted.label))
        if wanted.camera is not None:
            only(pc.equal(self.location, wanted.camera))
        if wanted.least is not None:
            only(np.nan_to_num(self.confidence) >= wanted.least)
        if wanted.most is not None:
            only(np.nan_to_num(self.confidence) <= wanted.most)
        if wanted.first is not None:
            begin = dt.datetime.combine(wanted.first, dt.time())
            only(pc.greater_equal(self.start, pa.scalar(begin, self.start.type)))
        if wanted.last is not None:
            after = dt.datetime.combine(wanted.last, dt.time()) + dt.timedelta(days=1)
            only(pc.less(self.start, pa.scalar(after, self.start.type)))
        if wanted.is_night is not None:
            only(self.is_night == wanted.is_night)
        if wanted.state == "uncertain":
            only(pc.equal(self.label, UNCERTAIN))
        if wanted.state == "disputed":
            disputed = np.zeros(len(self), bool)
            disputed[self.disputed()] = True
            only(disputed)
        if wanted.state == "disagree":
            only(pc.not_equal(self.truth, self.label))
        if wanted.state in ("open", "done"):
            done = np.zeros(len(self), bool)
            done[list(self.said)] = True
            only(done == (wanted.state == "done"))
        if wanted.text:
            in_label = pc.match_substring(self.label, wanted.text, ignore_case=True)
            in_camera = pc.match_substring(self.location, wanted.text, ignore_case=True)
            only(pc.or_kleene(pc.fill_null(in_label, False), pc.fill_null(in_camera, False)))
        return keep

    def read_what_was_said(self) -> None:
        """Bring `said` up to date with everything said so far, here and elsewhere."""
        known = self._written()
        if known == self._read:
            return
        self._corrections = read_corrections(self.run)
        # Of what may be a million images, only those about which somebody said something.
        ids, hashes = (one_chunk(pc.list_flatten(self._corrections[name])) for name in ("images", "sha256"))
        image_id, sha256 = one_chunk(self.frames["image_id"]), one_chunk(self.images["sha256"])
        is_told = pc.or_(pc.is_in(image_id, ids), pc.is_in(sha256, hashes.drop_null()))
        at = np.flatnonzero(is_told.to_numpy(zero_copy_only=False))
        rows = pa.array(at)
        images = pa.table({"image_id": image_id.take(rows), "sha256": sha256.take(rows)})
        said = standing(self._corrections, images)
        rows = settle_boxes(self.run, said, images["image_id"], self.empty).said
        found: dict[int, dict[str, Any]] = {}
        for row in rows.to_pylist():
            number = int(self._of[at[row["row"]]])
            before = found.get(number)
            if number < 0 or (before is not None and before["when"] > row["when"]):
                continue
            if before is None or before["decision"] != row["decision"]:
                before = found[number] = {
                    "decision": row["decision"], "who": row["who"], "when": row["when"], "labels": {},
                }  # fmt: skip
            more = {name: row[name] for name in TRAITS if row[name] is not None}
            before["labels"][row["label"]] = {"label": row["label"], **more}
        self.said = {
            number: Said(one["decision"], one["who"], one["when"], tuple(one["labels"].values()))
            for number, one in found.items()
        }
        self._read = known

    def _written(self) -> tuple[int, frozenset[str]]:
        """The state of what people said: the table's snapshot, and the files of the journal."""
        snapshot = self.run.current("corrections")
        return snapshot.number if snapshot else 0, frozenset(self.run.folder.list(JOURNAL))

    @property
    def names_told(self) -> pa.Array:
        """Names of the sequences about which people said something, as they were named then."""
        said = self._corrections.filter(self._corrections["label"].is_valid())
        return one_chunk(said["event"]).drop_null().unique()

    def disputed(self) -> list[int]:
        """Sequences about which somebody else said something different before, and did not take it back."""
        rows = self._corrections.select(["images", "who", "label", "decision"]).to_pylist()
        last: dict[tuple[str, str], tuple[str, set[str | None]]] = {}  # a person's last word on an image
        newest: dict[str, str] = {}
        for row in rows:
            for image in row["images"]:
                decision, labels = last.get((image, row["who"]), ("", set()))
                known = labels if decision == row["decision"] else set()
                last[image, row["who"]] = row["decision"], known | {row["label"]}
                newest[image] = row["who"]
        images = {
            image
            for (image, _), (_, labels) in last.items()
            if None not in labels and labels != last[image, newest[image]][1]
        }
        at = pc.index_in(
            pa.array(sorted(images), pa.string()), one_chunk(self.frames["image_id"])
        ).drop_null()
        return np.unique(self._of[at.to_numpy()]).tolist() if len(at) else []

    def earlier(self, number: int) -> list[Said]:
        """What others decided about a sequence before, the newest first: it is kept, but does not count."""
        stands = self.said.get(number)
        if stands is None:
            return []
        ids = one_chunk(self.frames["image_id"]).take(pa.array(self.frames_of(number)))
        rows = self._corrections.filter(pc.is_in(self._corrections["image_id"], ids))
        found: dict[str, Said] = {}
        for row in reversed(rows.to_pylist()):
            if row["who"] == stands.who or row["decision"] == stands.decision or row["label"] is None:
                continue
            known = found.get(row["who"])
            if known is None or known.decision == row["decision"]:
                labels = (*(known.labels if known else ()), {"label": row["label"], "count": row["count"]})
                found[row["who"]] = Said(row["decision"], row["who"], row["when"], labels)
        return list(found.values())

    def decide(
        self,
        numbers: Sequence[int],
        labels: Iterable[dict[str, Any]],
        who: str,
        seen: dict[int, str | None] | None = None,
    ) -> None:
        """Store durably what a person says about some sequences; no label revokes what was said.

        Parameters
        ----------
        labels : label and known traits of each species present
        seen : sequence -> the decision that the person saw there; None: do not check

        Raises
        ------
        AtOdds
            Somebody else has decided about one of them in the meantime; nothing is stored.
        """
        self.read_what_was_said()
        if seen is not None:
            others = {
                number: said
                for number in numbers
                if (said := self.said.get(number)) is not None
                and said.decision != seen.get(number)
                and said.who != who
            }
            if others:
                raise AtOdds(others)
        now = self._later_than_what_was_said(numbers)
        given = [{**one, "label": self.spelled(one["label"])} for one in labels] or [{"label": None}]
        corrections = []
        for number in numbers:
            rows = pa.array(self.frames_of(number))
            before = self.said.get(number)
            drawn, probability = self._drawn.get(number, (None, None))
            for one in given:
                corrections.append(
                    Correction(
                        images=tuple(self.frames["image_id"].take(rows).to_pylist()),
                        sha256=tuple(self.images["sha256"].take(rows).to_pylist()),
                        who=who,
                        when=now,
                        source="review",
                        scope="sequence",
                        event=self.seq_id[number].as_py(),
                        replaces=before.decision if before else None,
                        draw=drawn,
                        probability=probability,
                        **one,
                    )
                )
        path = write_journal(self.run.folder, corrections)
        if self._read is not None:  # what this process writes is known, what others write is not
            self._read = self._read[0], self._read[1] | {path.rpartition("/")[2]}
        said = pa.Table.from_pylist([_row(one) for one in corrections], CORRECTIONS)
        self._corrections = pa.concat_tables([self._corrections, said])
        for number in numbers:
            self.said.pop(number, None)
            if given[0]["label"] is not None:
                decision = next(
                    one.decision for one in corrections if one.event == self.seq_id[number].as_py()
                )
                self.said[number] = Said(decision, who, now, tuple(given))

    def _later_than_what_was_said(self, numbers: Sequence[int]) -> dt.datetime:
        """The current time, but later than what was said about these so far: of two decisions the newer one
        counts, even if the clock was set back between them, or another machine's is ahead."""
        of_images = self.frames["image_id"].take(
            pa.array(np.concatenate([self.frames_of(number) for number in numbers]))
        )
        is_of_them = pc.is_in(self._corrections["image_id"], one_chunk(of_images))
        latest = pc.max(self._corrections["when"].filter(is_of_them)).as_py()
        now = _now()
        return now if latest is None else max(now, latest + dt.timedelta(microseconds=1))


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def _key(rows: pa.Table) -> pa.Array:
    """The sequence of each row: data sets use the same name at several locations."""
    return one_chunk(pc.binary_join_element_wise(rows["location"], rows["seq_id"], "\0"))


def _row(correction: Correction) -> dict[str, Any]:
    return {**correction.as_row(), "when": correction.when}


def _numbers(column: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(one_chunk(column).cast(pa.float64()).to_numpy(zero_copy_only=False))
