"""Bytes in files: what a container holds, and where."""

# Files that a program may take for weights of a model.
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin", ".gguf")
