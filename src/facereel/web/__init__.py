"""The search page: `facereel serve`."""
