"""Protocols, metrics and the report."""

from facereel.evaluation.encode import Encoded, encode_part
from facereel.evaluation.ijb import IjbIdentification, IjbVerification
from facereel.evaluation.lists import Lists
from facereel.evaluation.metrics import TASKS, TaskResult, evaluate_codes
from facereel.evaluation.pairs import InsightFacePairs, LFWPairs, YouTubeFacesPairs
from facereel.evaluation.protocols import ClosedSet, IdentityDisjoint, LeaveOneOut, SavedSplit
from facereel.evaluation.split import Pair, Part, Split

__all__ = [
    "TASKS",
    "ClosedSet",
    "Encoded",
    "IdentityDisjoint",
    "IjbIdentification",
    "IjbVerification",
    "InsightFacePairs",
    "LFWPairs",
    "LeaveOneOut",
    "Lists",
    "Pair",
    "Part",
    "SavedSplit",
    "Split",
    "TaskResult",
    "YouTubeFacesPairs",
    "encode_part",
    "evaluate_codes",
]
