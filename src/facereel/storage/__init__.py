"""Files on disk: atomic writes, locks, and the one door for untrusted files."""
