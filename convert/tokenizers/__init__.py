"""Tokenizer files: read one kind, write another."""
