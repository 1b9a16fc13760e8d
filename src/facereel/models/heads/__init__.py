"""Hashing heads, which map pooled features to scores."""
