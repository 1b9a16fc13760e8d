"""Console, progress, optional packages, versions and hardware."""
