"""Losses: the contrastive loss, on where noun phrases attend to, and on what the clauses of captions give alone."""

from contextcir.losses.composed import Additivity, ClauseConsistency, ClauseDistillation, JoinedConsistency
from contextcir.losses.contrastive import InfoNCE, LearnedTemperatureInfoNCE, TripletLoss, WithoutTriplets
from contextcir.losses.grounded import GroundedConsistency, PhraseAlignment
from contextcir.losses.inversion import (
    ImageReconstruction,
    PseudoWordDistillation,
    SelfMaskingProjection,
)
from contextcir.losses.maps import ConceptMaps, ConceptReading
from contextcir.losses.negatives import ImageSetNegatives, StoredNegatives
from contextcir.losses.text_cc import (
    ConceptLoss,
    MeanOverPhrases,
    SpatialConsistency,
    TextConceptConsistency,
    mean_over_phrases,
)

__all__ = [
    "Additivity",
    "ClauseConsistency",
    "ClauseDistillation",
    "ConceptLoss",
    "ConceptMaps",
    "ConceptReading",
    "GroundedConsistency",
    "ImageReconstruction",
    "ImageSetNegatives",
    "InfoNCE",
    "JoinedConsistency",
    "LearnedTemperatureInfoNCE",
    "MeanOverPhrases",
    "PhraseAlignment",
    "PseudoWordDistillation",
    "SelfMaskingProjection",
    "SpatialConsistency",
    "StoredNegatives",
    "TextConceptConsistency",
    "TripletLoss",
    "WithoutTriplets",
    "mean_over_phrases",
]
