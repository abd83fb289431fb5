"""Each usable image, with what was found out about its sequence and its event."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from camtrap_batch.codes import one_chunk
from camtrap_batch.events.events import Events
from camtrap_batch.events.sequences import TRAITS, Sequences
from camtrap_batch.store import schemas
from camtrap_batch.vocabulary import NO_EVENT


def frame_rows(
    frames: pa.Table, sequences: Sequences, events: Events, empty: str, shown: pa.Table | None = None
) -> pa.Table:
    """Rows of the table `frames`.

    Parameters
    ----------
    frames : from `combine`, in the manifest's order
    shown : what `events` were found in: the sequences' frames, followed by one row for each further species
        in an image, by image; default: there are none
    """
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
            "more": _more(frames, shown, events),
        }
    ).select(schemas.FRAMES.names)


def _more(frames: pa.Table, shown: pa.Table | None, events: Events) -> pa.Array:
    """The further species of each image."""
    n, kind = frames.num_rows, schemas.FRAMES.field("more").type
    if shown is None or shown.num_rows == n:
        return pa.nulls(n, kind)
    further = shown.slice(n).append_column("event_id", events.event_id.slice(n))
    row = one_chunk(pc.index_in(further["image_id"], one_chunk(frames["image_id"]))).to_numpy()
    n_more = np.bincount(row, minlength=n)
    values = pa.StructArray.from_arrays(
        [one_chunk(further[field.name]).cast(field.type) for field in schemas.MORE], fields=list(schemas.MORE)
    )
    offsets = pa.array(np.append(0, np.cumsum(n_more)), pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=kind, mask=pa.array(n_more == 0))
