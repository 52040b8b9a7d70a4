"""Pairs from unlabelled images: embed, leave out duplicates, search neighbours, choose pairs inside a band."""

from contextcir.synthesis.mining.duplicates import NearDuplicates, SameFile
from contextcir.synthesis.mining.encoder import ClipEncoder, ImageEncoder
from contextcir.synthesis.mining.pairs import MinedPairs
from contextcir.synthesis.mining.search import ApproximateSearch, ExactSearch, SearchBySize
from contextcir.synthesis.mining.selection import AnyInBand, Band, MostSimilar, Uses
from contextcir.synthesis.mining.store import Loading

__all__ = [
    "AnyInBand",
    "ApproximateSearch",
    "Band",
    "ClipEncoder",
    "ExactSearch",
    "ImageEncoder",
    "Loading",
    "MinedPairs",
    "MostSimilar",
    "NearDuplicates",
    "SameFile",
    "SearchBySize",
    "Uses",
]
