"""The hasher of the tests of indexes: small, since it is saved with every index."""

from typing import Any

from facereel.models.hasher import DEFAULT_CONFIG

CONFIG: dict[str, Any] = {**DEFAULT_CONFIG, "pooling": {"_target_": "facereel.models.MeanPooling"}}
