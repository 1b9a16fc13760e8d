"""The command line: one file per command."""

import os

# Before torch is imported. Threads that wait for others in a loop slow them down when other programs run:
# docs/results/benchmarks/busy.md.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
