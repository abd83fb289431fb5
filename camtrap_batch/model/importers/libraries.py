"""The networks of timm and torchvision, as `camtrap model import` takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from camtrap_batch.model.importers.base import CLASSES, SEEN, Argument, Imported, classes_of, seen
from camtrap_batch.options import Option, one_of

Library = Literal["timm", "torchvision"]

_POOLS = ("avg", "token", "map", "max", "avgmax")
_POOL = Option(
    "pool",
    f"what the last layer reads, where it is not what timm builds: {', '.join(_POOLS)}",
    parse=one_of(_POOLS),
    metavar="POOL",
)


@dataclass(frozen=True)
class LibraryImporter:
    """A library's networks: those of timm, or of torchvision."""

    name: Library

    arguments: ClassVar[tuple[Argument, ...]] = (
        Argument("name", "NAME", "what the library calls it, such as resnet50 or convnext_tiny.fb_in1k"),
        Argument(
            "file",
            "FILE",
            "its weights: .safetensors, or a torch state dict (default: those published, downloaded)",
            is_optional=True,
        ),
    )

    @property
    def options(self) -> tuple[Option, ...]:
        return (CLASSES, *SEEN, _POOL) if self.name == "timm" else (CLASSES, *SEEN)

    @property
    def help(self) -> str:
        return f"a network of {self.name}, with its published weights or a file of your own"

    def run(self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path) -> Imported:
        from camtrap_batch.model.importers.published import import_published

        weights = Path(given["file"]) if given["file"] else None
        described = seen(given)
        if given.get("pool") is not None:
            described["pool"] = given["pool"]
        info, compared = import_published(
            self.name, given["name"], weights, classes_of(given), scratch, pictures, described
        )
        terms = info.provenance.get("licence")
        notes = (f"licence of the weights, as {self.name} says: {terms}",) if terms else ()
        what = f"{self.name}'s {given['name']}: model {info.model_id}, {len(info.classes):,} classes"
        return Imported(scratch / info.model_id, what, str(compared), ("infer: {{model: {out}}}",), notes)


TIMM, TORCHVISION = LibraryImporter("timm"), LibraryImporter("torchvision")
