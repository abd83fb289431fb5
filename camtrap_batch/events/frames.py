"""Each usable image, with what was found of its sequence and its event."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.events.events import Events
from camtrap_batch.events.sequences import TRAITS, Sequences
from camtrap_batch.store import schemas
from camtrap_batch.vocabulary import NO_EVENT


def frame_rows(frames: pa.Table, sequences: Sequences, events: Events, empty: str) -> pa.Table:
    """Rows of the table `frames`; `frames` as of `combine`, in the manifest's order."""
    labelled = sequences.frames
    counted = labelled if "count" in labelled.column_names else frames
    n = frames.num_rows
    whys = [
        labelled["datetime"].is_null(),
        labelled["label"].is_null(),
        pc.fill_null(pc.equal(labelled["label"], empty), False),
    ]
    why = pc.case_when(
        pc.make_struct(*(one.combine_chunks() for one in whys)), *(pa.repeat(text, n) for text in NO_EVENT)
    )
    return pa.table(
        {
            "file_name": frames["file_name"],
            **{name: labelled[name] for name in ("image_id", "location", "seq_id", "label", "confidence")},
            "image_confidence": labelled["image_confidence"],
            "event_id": events.event_id.slice(0, n),
            "count": counted["count"] if "count" in counted.column_names else pa.nulls(n, pa.int32()),
            "no_event": why,
            **{name: labelled[name] for name in ("label_source", *TRAITS)},
        }
    ).select(schemas.FRAMES.names)
