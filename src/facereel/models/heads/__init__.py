"""Pooled features to scores."""
