"""What an export reports when it is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from camtrap_batch.vocabulary import counted, plural


@dataclass
class Written:
    """An export: every image of the catalog is among `images` or among those that were left out.

    Attributes
    ----------
    path : path of the file or folder
    images : number of images in it
    left_out : reason -> number of images left out
    listed : file that names each of those
    notes : number of rows by further remarks on them
    headline : what was written, if it is not a list of images
    """

    path: Path
    images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    listed: Path | None = None
    notes: Counter[str] = field(default_factory=Counter)
    headline: str | None = None

    def lines(self) -> list[str]:
        """Lines for people: what was written, what was not, and why."""
        what = plural(self.images, "image") if self.headline is None else self.headline
        lines = [f"{what} written to {self.path}"]
        lines += [counted(number, text) for text, number in self.notes.items() if number]
        if self.left_out:
            lines.append(f"images left out: {self.left_out.total():,}, each named in {self.listed}:")
            lines += [f"  {number:,} {reason}" for reason, number in self.left_out.most_common()]
        return lines
