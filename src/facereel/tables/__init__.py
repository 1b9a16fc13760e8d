"""Whole tables: what is run for them, running it, and writing them."""
