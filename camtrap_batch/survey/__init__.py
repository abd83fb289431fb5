"""From sightings to a survey: how long cameras worked, where and when species were found. Arrow in and out.

`effort` derives deployments and days in the field, `checks` finds what looks wrong with them, `history` makes
detection histories, `derived` whatever `camtrap table` derives; `occupancy`, `activity` and `richness` are
estimates. docs/effort.md has the definitions.
"""

from __future__ import annotations

from camtrap_batch.survey.effort import EFFORT, effort_by_location, make_deployments

__all__ = ["EFFORT", "effort_by_location", "make_deployments"]
