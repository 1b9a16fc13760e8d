"""Protocols, metrics and the report."""

from facereel.evaluation.encode import Encoded, encode_part
from facereel.evaluation.metrics import TASKS, TaskResult, evaluate_codes
from facereel.evaluation.protocols import ClosedSet, IdentityDisjoint, LeaveOneOut, Part, Split

__all__ = [
    "TASKS",
    "ClosedSet",
    "Encoded",
    "IdentityDisjoint",
    "LeaveOneOut",
    "Part",
    "Split",
    "TaskResult",
    "encode_part",
    "evaluate_codes",
]
