"""SpeciesNet: its classifier as an ONNX file, its taxonomy and its geofence as files for a job.

The folder is its package's (github.com/google/cameratrapai): `info.json` names the weights, the labels,
the taxonomy and the geofence. Its labels are `uuid;class;order;family;genus;species;common name`.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from camtrap_batch.catalog.labels import label_key
from camtrap_batch.errors import InputError, choices
from camtrap_batch.events.taxonomy import read_taxonomy
from camtrap_batch.model.importers.base import Argument, Comparison, Imported
from camtrap_batch.model.importers.process import PYTHON, run_script
from camtrap_batch.options import Option
from camtrap_batch.runtime import hash_file
from camtrap_batch.vocabulary import plural

SIZE = 480
TRIM = (0.3, 400)
"""Largest fraction of the height, and number of pixels, that full_image leaves out, above and below
together."""

_RANKS = ("class", "order", "family", "genus")
_HUMAN = ("mammalia", "primates", "hominidae", "homo", "sapiens")
_TYPES = ("always_crop", "full_image")
_INSTALL = {
    "onnx2torch": "pip install onnx2torch (Apache-2.0), or speciesnet, which brings it",
    "onnx": "pip install onnx",
}


class Taxon(NamedTuple):
    """A SpeciesNet label: `class;order;family;genus;species`, and the common name."""

    ranks: tuple[str, ...]
    common: str
    line: str

    @property
    def name(self) -> str:
        """The species, or the lowest group it belongs to, or the label of what is not an animal.

        >>> Taxon.of("1;mammalia;carnivora;felidae;panthera;leo;lion").name
        'panthera leo'
        >>> Taxon.of("1;mammalia;carnivora;felidae;;;cat family").name, Taxon.of("2;;;;;;blank").name
        ('felidae', 'blank')
        """
        *_, genus, species = self.ranks
        if self.ranks == _HUMAN:
            return "human"
        if genus and species:
            return f"{genus} {species}"
        return next((name for name in reversed(self.ranks[:4]) if name), self.common)

    @property
    def key(self) -> str:
        """Its key in the geofence and the taxonomy."""
        return ";".join(self.ranks)

    @classmethod
    def of(cls, line: str) -> Taxon:
        parts = [part.strip() for part in line.split(";")]
        if len(parts) != 7:
            raise ValueError(f"{line!r} should be uuid;class;order;family;genus;species;common name")
        return cls(tuple(parts[1:6]), parts[6], line)


class SpeciesNetImporter:
    """SpeciesNet's folder."""

    name = "speciesnet"
    help = "SpeciesNet: classifier, taxonomy and geofence (needs the package onnx2torch)"
    arguments: ClassVar[tuple[Argument, ...]] = (
        Argument("folder", "FOLDER", "folder with info.json and the files that it names"),
    )
    options: ClassVar[tuple[Option, ...]] = (
        Option(
            "country",
            "write species.csv, what its geofence allows there: TZA (ISO 3166-1), or with a region, USA-CA",
            metavar="CODE",
        ),
        PYTHON,
    )

    def run(self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path) -> Imported:
        from camtrap_batch.model.importers.classifiers import write_classifier
        from camtrap_batch.model.imports import import_onnx
        from camtrap_batch.model.predictor import Predictor

        folder = Path(given["folder"])
        info = read_folder(folder)
        taxa = read_taxa(folder / info["classifier_labels"])
        labels = labels_of(taxa)
        possible = None
        if given["country"] is not None:
            fence = read_geofence(folder / info["geofence"])
            possible = [taxon for taxon in taxa if is_allowed(fence, taxon, *_place(given["country"], fence))]
        weights = (folder / info["classifier"]).resolve()
        (scratch / "pictures").mkdir()
        names = []
        for number, data in enumerate(pictures):
            names.append(str(scratch / "pictures" / f"{number}.jpg"))
            Path(names[-1]).write_bytes(data)
        told = run_script(
            "speciesnet.py",
            {
                "weights": str(weights),
                "type": info["type"],
                "size": SIZE,
                "pictures": names,
                "onnx": str(scratch / "made.onnx"),
                "original": str(scratch / "original.npy"),
            },
            scratch / "work",
            file=weights,
            python=given["python"],
            install=_INSTALL,
        )
        if told["outputs"] != len(labels):
            raise InputError(
                f"{folder / info['classifier_labels']}: has {len(labels):,} labels, and the network "
                f"{told['outputs']:,} outputs"
            )
        made, card = scratch / "made.onnx", self._card(info, labels, weights)
        model = import_onnx(made, card, scratch / "models", folder)
        ours = Predictor(scratch / "models" / model.model_id, "cpu").predict(pictures)
        compared = Comparison.of(ours, np.load(scratch / "original.npy"))
        compared.require(str(weights))
        out = write_classifier(scratch / "out", made, model)
        n_moved = write_taxonomy(out / "taxonomy.csv", taxa, labels)
        job = ["infer: {{model: {out}}}", "select: {{empty: {{class: blank}}}}"]
        events = "taxonomy: {out}/taxonomy.csv"
        notes = []
        if n_moved:
            notes.append(
                f"{plural(n_moved, 'label was', 'labels were')} given the groups of most in their genus"
            )
        if possible is not None:
            n = write_species(out / "species.csv", taxa, labels, possible)
            events += ", species: {out}/species.csv"
            there = f"{len(possible):,} of {len(taxa):,} classes in {given['country'].upper()}"
            notes.append(f"its geofence allows {there}: {n:,} lines of species.csv, and their groups")
        job.append(f"events: {{{{{events}}}}}")
        if info["type"] == "always_crop":
            notes.append("it was trained on boxes: the job needs a detector (detect.model or detect.results)")
        if info.get("detector"):
            notes.append(f"the detector that it is used with: {info['detector']}")
        return Imported(
            out,
            f"SpeciesNet {info['version']} ({info['type']}), {len(labels):,} classes",
            str(compared),
            tuple(job),
            tuple(notes),
        )

    @staticmethod
    def _card(info: Mapping[str, str], labels: list[str], weights: Path) -> dict[str, Any]:
        return {
            "classes": labels,
            "size": SIZE,
            "resize": "squash",
            "interpolation": "bilinear",
            "antialias": False,
            "boxes": "stretch",
            "trim": list(TRIM) if info["type"] == "full_image" else [0, 0],
            "mean": [0, 0, 0],
            "std": [1, 1, 1],
            "outputs": "logits",
            "provenance": {
                "name": "SpeciesNet",
                "version": info["version"],
                "type": info["type"],
                "file": weights.name,
                "sha256": hash_file(weights),
            },
        }


IMPORT = SpeciesNetImporter()


def read_folder(folder: Path) -> dict[str, str]:
    """The content of `info.json`, whose files must exist. Raises InputError if it is not SpeciesNet's."""
    path = folder / "info.json"
    try:
        info = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; should be the folder of a SpeciesNet model") from None
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read as JSON: {problem}") from None
    wanted = ("version", "type", "classifier", "classifier_labels", "taxonomy", "geofence")
    if not isinstance(info, dict) or any(not isinstance(info.get(key), str) for key in wanted):
        missing = [key for key in wanted if not isinstance(info, dict) or not isinstance(info.get(key), str)]
        raise InputError(f"{path}: should have {', '.join(missing)}")
    if info["type"] not in _TYPES:
        raise InputError(f"{path}: type {info['type']!r} is not known; {choices(info['type'], _TYPES)}")
    for key in ("classifier", "classifier_labels", "taxonomy", "geofence"):
        if not (folder / info[key]).is_file():
            raise InputError(f"{folder / info[key]}: no such file, which {path.name} names as {key}")
    return info


def read_taxa(path: Path) -> list[Taxon]:
    """The labels, in the order of the outputs. Raises InputError with the line of a malformed one."""
    taxa = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read: {problem}") from None
    for number, line in enumerate(lines, 1):
        try:
            taxa.append(Taxon.of(line))
        except ValueError as problem:
            raise InputError(f"{path}:{number}: {problem}") from None
    return taxa


def labels_of(taxa: Sequence[Taxon]) -> list[str]:
    """A distinct name for each: if two share one, the common name, or else the line, is added."""
    labels = [taxon.name for taxon in taxa]
    for more in ("common", "line"):
        twice = {key for key, n in Counter(map(label_key, labels)).items() if n > 1}
        labels = [
            f"{label} ({getattr(taxon, more)})" if label_key(label) in twice else label
            for label, taxon in zip(labels, taxa, strict=True)
        ]
    return labels


def read_geofence(path: Path) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Class -> allow, block -> country -> regions (none: all of it). Raises InputError if it is not a
    geofence."""
    try:
        fence: dict[str, dict[str, dict[str, list[str]]]] = json.loads(path.read_bytes())
    except (OSError, ValueError) as problem:
        raise InputError(f"{path}: can't be read as JSON: {problem}") from None
    for key, rules in fence.items() if isinstance(fence, dict) else [("", None)]:
        places = [rules.get(rule) or {} for rule in ("allow", "block")] if isinstance(rules, dict) else [None]
        if not all(isinstance(of, dict) and all(isinstance(r, list) for r in of.values()) for of in places):
            raise InputError(
                f'{path}: {key!r}: should be {{"allow": {{"TZA": [], "USA": ["CA"]}}, "block": {{...}}}}'
            )
    return fence


def is_allowed(
    fence: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]],
    taxon: Taxon,
    country: str,
    region: str | None,
) -> bool:
    """Whether the geofence allows a class in a country, or in a region of it.

    The rules of speciesnet 5.0: a class that is not named is allowed everywhere; one that is allowed
    somewhere is allowed nowhere else; without a region, a country counts as allowed or blocked if a part of
    it is.
    """
    rules = fence.get(taxon.key)
    if rules is None:
        return True
    if allow := rules.get("allow"):
        if country not in allow:
            return False
        if region and allow[country] and region not in allow[country]:
            return False
    block = rules.get("block") or {}
    if country in block:
        return bool(block[country]) and region not in block[country]
    return True


def write_taxonomy(path: Path, taxa: Sequence[Taxon], labels: Sequence[str]) -> int:
    """Write a file for `events.taxonomy`; people, and what is not an animal, are left out.

    A group should be in only one other group: if labels disagree, the majority decides. Returns how many
    labels were changed by this.
    """
    above: dict[tuple[int, str], Counter[tuple[str, ...]]] = {}
    for taxon in taxa:
        for rank, name in enumerate(taxon.ranks[:4]):
            if name:
                above.setdefault((rank, name), Counter())[taxon.ranks[:rank]] += 1
    ranks_of: dict[str, set[int]] = {}
    for rank, name in above:
        ranks_of.setdefault(name, set()).add(rank)

    def shown(rank: int, name: str) -> str:
        return name if len(ranks_of[name]) == 1 else f"{name} ({_RANKS[rank]})"

    def climb(groups: tuple[str, ...]) -> list[str]:
        """The groups of each rank down to the lowest one that is named, by majority."""
        rank = max((rank for rank, name in enumerate(groups) if name), default=-1)
        if rank < 0:
            return [""] * 4
        name = groups[rank]
        most = above[rank, name].most_common()
        best = max(most, key=lambda item: (item[1], sum(map(bool, item[0])), item[0]))[0]
        found = climb(best)
        found[rank] = shown(rank, name)
        return found

    changed = 0
    rows = []
    for taxon, label in zip(taxa, labels, strict=True):
        if not any(taxon.ranks) or taxon.ranks == _HUMAN:
            continue
        groups = climb(taxon.ranks[:4])
        changed += groups != [shown(rank, name) if name else "" for rank, name in enumerate(taxon.ranks[:4])]
        rows.append([label, *reversed(groups)])
    _write_csv(path, ["label", *reversed(_RANKS)], rows)
    read_taxonomy(str(path))
    return changed


def write_species(path: Path, taxa: Sequence[Taxon], labels: Sequence[str], possible: Sequence[Taxon]) -> int:
    """Write a file for `events.species`; returns its number of lines.

    A group with classes below it is left out, since it would stand for all of them: it is possible wherever
    one of them is.
    """
    allowed = {taxon.line for taxon in possible}
    groups = {name for taxon in taxa for name in taxon.ranks[:4] if name and name != taxon.name}
    listed = [
        [label]
        for taxon, label in zip(taxa, labels, strict=True)
        if taxon.line in allowed and taxon.name not in groups
    ]
    _write_csv(path, ["label"], listed)
    return len(listed)


def _place(code: str, fence: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> tuple[str, str | None]:
    match = re.fullmatch(r"([A-Z]{3})(?:-([A-Z0-9]{2}))?", code.upper())
    known = {country for rules in fence.values() for of in rules.values() for country in of}
    if match is None:
        raise InputError(f"--country {code}: should be three letters (ISO 3166-1), such as TZA, or USA-CA")
    if known and match[1] not in known:
        raise InputError(f"--country {code}: the geofence has no {match[1]}; {choices(match[1], known)}")
    return match[1], match[2]


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
