"""Index binary codes and search them by Hamming distance."""

from facereel.retrieval.code_index import CodeIndex

__all__ = ["CodeIndex"]
