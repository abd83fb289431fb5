"""Detectors in weights of PyTorch: MegaDetector's, and others of YOLOv5's and ultralytics' networks.

Such a file is a pickle of the network's own classes: a separate process that has the package loads it and
writes an ONNX file. None of these packages is ours, and none is needed afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from camtrap_batch.errors import InputError
from camtrap_batch.model.importers.base import Argument, Imported
from camtrap_batch.model.importers.process import PYTHON, run_script
from camtrap_batch.options import Option, whole_number
from camtrap_batch.runtime import hash_file, needs_code, open_network

if TYPE_CHECKING:
    from camtrap_batch.detection.onnx import OnnxDetector

_INSTALL = {
    "ultralytics": "pip install 'ultralytics>=8.3' (AGPL-3.0; not a part of camtrap-batch)",
    "models": "pip install 'yolov5>=7' (AGPL-3.0; not a part of camtrap-batch)",
    "utils": "pip install 'yolov5>=7' (AGPL-3.0; not a part of camtrap-batch)",
    "yolov5": "pip install 'yolov5>=7' (AGPL-3.0; not a part of camtrap-batch)",
    "onnx": "pip install onnx",
}
_MEGADETECTOR = ("animal", "person", "vehicle")


@dataclass(frozen=True)
class WeightsImporter:
    """A detector in PyTorch weights."""

    name: str
    help: str
    example: str
    categories: tuple[str, ...] | None = None  # the categories it has, whatever its file calls them

    options: ClassVar[tuple[Option, ...]] = (
        Option("size", "side of its pictures (default: what it says)", parse=whole_number, metavar="PX"),
        PYTHON,
    )

    @property
    def arguments(self) -> tuple[Argument, ...]:
        return (Argument("file", "FILE", f"its weights, such as {self.example}"),)

    def run(self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path) -> Imported:
        from camtrap_batch.detection.onnx import CARD, MODEL, OnnxDetector
        from camtrap_batch.model.importers.boxes import compare_boxes

        file = Path(given["file"]).resolve()
        if not file.is_file():
            raise InputError(f"{given['file']}: no such file")
        if not needs_code(file):
            raise InputError(f"{file}: not PyTorch weights; an ONNX file: camtrap model import onnx {file}")
        out = scratch / "out"
        out.mkdir()
        names = _write(scratch / "pictures", pictures)
        said = run_script(
            "yolo.py",
            {
                "weights": str(file),
                "size": given["size"],
                "onnx": str(out / MODEL),
                "raw": str(scratch / "raw.npz"),
                "pictures": names,
            },
            scratch / "work",
            file=file,
            python=given["python"],
            install=_INSTALL,
        )
        card = said["card"]
        if self.categories is not None:
            if len(card["names"]) != len(self.categories):
                listed = ", ".join(map(str, card["names"][:5]))
                raise InputError(
                    f"{file}: a {self.name} finds {', '.join(self.categories)}; this one has "
                    f"{len(card['names'])} classes: {listed}; import it as ultralytics"
                )
            card["names"] = list(self.categories)
        (out / CARD).write_text(json.dumps(card))
        detector = OnnxDetector.open(str(out / MODEL), key=str(file))
        kept = json.loads(detector.files[CARD])  # type: ignore[arg-type]
        kept["provenance"] = {"file": file.name, "sha256": hash_file(file), "imported_as": self.name}
        (out / CARD).write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _require_same_numbers(detector, scratch / "raw.npz", str(file))
        compared = compare_boxes(detector, pictures, said["found"], said["way"])
        compared.require(str(file))
        return Imported(
            out,
            f"{file.name}: layout {detector.layout}, {detector.fit.size[1]} pixels, "
            f"{', '.join(detector.categories[:5])}{', ...' if len(detector.categories) > 5 else ''}",
            str(compared),
            (f"detect: {{{{model: {{out}}/{MODEL}}}}}",),
        )


ULTRALYTICS = WeightsImporter(
    "ultralytics", "a detector of ultralytics or YOLOv5, in its weights (needs its package)", "best.pt"
)
MEGADETECTOR = WeightsImporter(
    "megadetector",
    "MegaDetector v5 or v1000, in its weights (needs the package yolov5 or ultralytics)",
    "md_v5a.0.0.pt or md_v1000.0.0-redwood.pt",
    _MEGADETECTOR,
)


def _write(folder: Path, pictures: Sequence[bytes]) -> list[str]:
    folder.mkdir()
    names = []
    for number, data in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(data)
        names.append(str(folder / f"{number}.jpg"))
    return names


def _require_same_numbers(detector: OnnxDetector, raw: Path, where: str) -> None:
    """Compare the ONNX file's outputs with the network's own for a frame of noise, if they are boxes on a
    grid: other outputs are sorted, so two of them may change places."""
    if detector.layout not in ("yolov5", "yolov8"):
        return
    with np.load(raw) as arrays:
        frame, theirs = arrays["frame"], arrays["output"]
    ours = next(o for o in open_network(detector.path, "cpu", 1, "float32").run(frame) if o.ndim == 3)
    if ours.shape != theirs.shape:
        raise InputError(f"{where}: what was written gives {ours.shape}, the original {theirs.shape}")
    # Boxes in pixels, confidences in fractions.
    far = np.abs(ours - theirs) > 0.005 + 0.002 * np.abs(theirs)
    if far.mean() > 0.001:
        raise InputError(
            f"{where}: what was written gives other numbers than the original: {far.mean():.1%} of "
            f"{far.size:,} are more than 0.005 apart"
        )
