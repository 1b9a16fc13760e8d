"""Compose and check configurations, and read saved runs."""
