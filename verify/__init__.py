"""Proof that two checkpoints are the same model."""
