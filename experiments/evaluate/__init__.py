"""Evaluate an embedder by the protocols of a benchmark."""
