"""What a stage is, how its shards are planned, done and committed, and the order of the stages."""

from camtrap_batch.pipeline.context import Context
from camtrap_batch.pipeline.order import (
    STAGES,
    parse_options,
    plans,
    reprocess,
    reprocess_options,
    run_one,
    run_stage,
)
from camtrap_batch.pipeline.stage import Made, Part, Stage, StageOption, StageResult, TableSpec

__all__ = [
    "Stage",
    "TableSpec",
    "StageOption",
    "Part",
    "Context",
    "Made",
    "StageResult",
    "STAGES",
    "plans",
    "run_one",
    "reprocess",
    "run_stage",
    "parse_options",
    "reprocess_options",
]
