"""Measurements, as ratios against a peer in the same run. Absolute times mean little on shared machines."""
