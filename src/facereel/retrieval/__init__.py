"""Codes in an index that is searched by Hamming distance."""

from facereel.retrieval.code_index import CodeIndex

__all__ = ["CodeIndex"]
