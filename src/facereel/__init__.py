"""Face videos and face pictures as short binary codes in one Hamming space."""

__version__ = "0.1.0"
