"""The command line: one file per command."""

import os

# Read when torch is imported. Threads that wait in a loop slow down the ones they wait for when other programs run, see
# docs/results/benchmarks/busy.md.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
