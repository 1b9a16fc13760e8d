"""The HTTP API of `facereel serve`, below /api/v1."""
