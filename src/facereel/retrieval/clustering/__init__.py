"""Cluster tracks into people."""
