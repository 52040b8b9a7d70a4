"""Measurements of the project's own speed and memory; each module is a command."""
