"""From classified images to species per camera: sequences, events, locations. Arrow tables in and out.

`combine` groups images into sequences and labels them, `find_events` groups the labelled images into
independent events, `summarise` counts them at each camera location. The order of rows does not matter.
"""

from __future__ import annotations

from camtrap_batch.events.codes import UNKNOWN_LOCATION
from camtrap_batch.events.events import Events, find_events
from camtrap_batch.events.frames import frame_rows
from camtrap_batch.events.locations import count_wildlife, summarise
from camtrap_batch.events.sequences import BURST_GAP_S, FRAMES, Sequences, combine
from camtrap_batch.events.species import SpeciesLists, read_species, unused_cameras, unused_lines
from camtrap_batch.events.taxonomy import Taxonomy, make_taxonomy, read_taxonomy, taxonomy_of

__all__ = [
    "combine",
    "Sequences",
    "FRAMES",
    "BURST_GAP_S",
    "find_events",
    "Events",
    "frame_rows",
    "count_wildlife",
    "summarise",
    "UNKNOWN_LOCATION",
    "Taxonomy",
    "make_taxonomy",
    "read_taxonomy",
    "taxonomy_of",
    "SpeciesLists",
    "read_species",
    "unused_cameras",
    "unused_lines",
]
