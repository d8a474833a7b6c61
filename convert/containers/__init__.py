"""Bytes in files: what a container holds, and where."""
