"""Triplets from images: pairs, descriptions, instructions, filters."""
