"""Frame features of a clip to one vector."""
