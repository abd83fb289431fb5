"""From sightings to a survey: how long cameras worked, where and when species were found. Arrow in and out.

`effort` makes deployments and days in the field, `checks` what looks wrong in them, `history` detection
histories, `tables` what `camtrap table` derives; `occupancy`, `activity` and `richness` are estimates.
docs/effort.md says what counts as what.
"""

from __future__ import annotations

from camtrap_batch.survey.effort import EFFORT, effort_by_location, make_deployments

__all__ = ["EFFORT", "effort_by_location", "make_deployments"]
