"""Poolings, which map the frame features of a clip to one vector."""
