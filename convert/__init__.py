"""Checkpoints in, checkpoints out: containers, formats, the plan, and the run."""
