"""Tracks to people."""
