"""Figures of the documentation that are drawn from the code itself; each module is a command."""
