"""Configuration: composing, checking, and saved runs."""
