"""Noun phrases and clauses of captions: parsers that find them, and a bank that keeps what was found."""
