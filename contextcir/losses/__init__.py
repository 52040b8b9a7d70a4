"""Losses: the contrastive loss, and losses on where the noun phrases of captions attend to."""

from contextcir.losses.contrastive import InfoNCE, LearnedTemperatureInfoNCE
from contextcir.losses.grounded import GroundedConsistency, PhraseAlignment
from contextcir.losses.maps import ConceptMaps, ConceptReading
from contextcir.losses.negatives import StoredNegatives
from contextcir.losses.text_cc import (
    ConceptLoss,
    MeanOverPhrases,
    SpatialConsistency,
    TextConceptConsistency,
    mean_over_phrases,
)

__all__ = [
    "ConceptLoss",
    "ConceptMaps",
    "ConceptReading",
    "GroundedConsistency",
    "InfoNCE",
    "LearnedTemperatureInfoNCE",
    "MeanOverPhrases",
    "PhraseAlignment",
    "SpatialConsistency",
    "StoredNegatives",
    "TextConceptConsistency",
    "mean_over_phrases",
]
