"""An ONNX file of a classifier or a detector, as a folder with a card.

The network's file stays as it was. The comparison covers everything around it: the preparation of pictures
and the workers' runtime, against Pillow, torchvision and ONNX Runtime.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from camtrap_batch.errors import InputError
from camtrap_batch.images.framing import BOXES
from camtrap_batch.model.importers.base import CLASSES, SEEN, Argument, Imported, classes_of, seen
from camtrap_batch.model.info import OUTPUTS
from camtrap_batch.options import Option, one_of
from camtrap_batch.runtime import OnnxInfo, hash_file, read_onnx


class OnnxImporter:
    """An ONNX file."""

    name = "onnx"
    help = "an ONNX file: a classifier, with its classes, or a detector"
    arguments: ClassVar[tuple[Argument, ...]] = (Argument("file", "FILE", "it ends in .onnx"),)
    options: ClassVar[tuple[Option, ...]] = (
        CLASSES,
        *SEEN,
        Option("no-antialias", "reduce pictures without smoothing them", metavar=None),
        Option("boxes", "how it sees a detector's box: square or stretch", parse=one_of(BOXES)),
        Option("outputs", f"{' or '.join(OUTPUTS)} (default: seen)", parse=one_of(OUTPUTS)),
        Option("detector", "it finds boxes (default: judged by the shapes of its outputs)", metavar=None),
    )

    def run(self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path) -> Imported:
        file = Path(given["file"])
        network = read_onnx(file)
        if given["detector"] or _finds_boxes(network):
            return self._detector(given, pictures, scratch, file)
        classes = classes_of(given)
        if classes is None:
            raise InputError(f"{file}: which classes does it have? give --classes FILE")
        from camtrap_batch.model.importers.classifiers import compare_onnx, said, write_classifier
        from camtrap_batch.model.imports import import_onnx

        content = {
            "classes": classes,
            **seen(given),
            **{key: given[key] for key in ("boxes", "outputs") if given[key] is not None},
            **({"antialias": False} if given["no-antialias"] else {}),
            "provenance": {"file": file.name, "sha256": hash_file(file)},
        }
        info = import_onnx(file, content, scratch / "models", "--classes")
        compared = compare_onnx(scratch / "models" / info.model_id, file, info, pictures)
        compared.require(str(file))
        folder = write_classifier(scratch / "out", file, info)
        return Imported(
            folder,
            f"{file.name}: {len(info.classes):,} classes, {info.outputs}",
            str(compared),
            ("infer: {{model: {out}}}",),
            (said(info),),
        )

    def _detector(
        self, given: Mapping[str, Any], pictures: Sequence[bytes], scratch: Path, file: Path
    ) -> Imported:
        from camtrap_batch.detection.onnx import CARD, MODEL, OnnxDetector, read_card
        from camtrap_batch.model.importers.boxes import compare_detector

        out = scratch / "out"
        out.mkdir()
        shutil.copyfile(file, out / MODEL)
        card = read_card(file.with_name(CARD)).model_dump(exclude_none=True)
        said = {"names": classes_of(given), "size": given["size"], "mean": given["mean"], "std": given["std"]}
        card |= {key: value for key, value in said.items() if value is not None}
        (out / CARD).write_text(json.dumps(card))
        detector = OnnxDetector.open(str(out / MODEL), key=str(file))
        (out / CARD).write_bytes(detector.files[CARD])  # type: ignore[arg-type]
        compared = compare_detector(detector, pictures, str(file))
        names = ", ".join(detector.categories[:5]) + (", ..." if len(detector.categories) > 5 else "")
        return Imported(
            out,
            f"{file.name}: a detector, {detector.layout}, {len(detector.categories)} classes ({names})",
            str(compared),
            (f"detect: {{{{model: {{out}}/{MODEL}}}}}",),
        )


IMPORT = OnnxImporter()


def _finds_boxes(network: OnnxInfo) -> bool:
    """Whether an output has three axes, or the file says that it is a detector."""
    if network.metadata.get("task") == "detect":
        return True
    return any(len(port.shape) == 3 for port in network.outputs) and not any(
        len(port.shape) == 2 for port in network.outputs
    )
