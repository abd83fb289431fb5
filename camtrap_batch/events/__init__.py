"""From classified images to species per camera: sequences, events, locations. Arrow tables in and out.

`combine` groups images into sequences and labels them, `find_events` groups the labelled images into
independent events, `summarise` counts them at each camera location. The order of rows does not matter.
"""

from __future__ import annotations

from camtrap_batch.events.codes import UNKNOWN_LOCATION
from camtrap_batch.events.events import Events, find_events
from camtrap_batch.events.frames import frame_rows
from camtrap_batch.events.locations import summarise
from camtrap_batch.events.sequences import BURST_GAP_S, FRAMES, Sequences, combine
from camtrap_batch.events.species import SpeciesLists, read_species, unused_lines
<<<<<<< HEAD
from camtrap_batch.events.taxonomy import RED_LIST, Names, Taxonomy, make_taxonomy, read_taxonomy
=======
from camtrap_batch.events.taxonomy import Taxonomy, make_taxonomy, read_taxonomy, taxonomy_of
>>>>>>> ad85b79cec92641d877d74c514491226cf16d7e4

__all__ = [
    "combine",
    "Sequences",
    "FRAMES",
    "BURST_GAP_S",
    "find_events",
    "Events",
    "frame_rows",
    "summarise",
    "UNKNOWN_LOCATION",
    "Taxonomy",
    "Names",
    "RED_LIST",
    "make_taxonomy",
    "read_taxonomy",
    "taxonomy_of",
    "SpeciesLists",
    "read_species",
    "unused_lines",
]
