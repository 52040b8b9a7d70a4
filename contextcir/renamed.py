"""Class paths of earlier versions, and where each class is now.

Configs and checkpoints name classes by their paths, so a class that moves leaves files behind that name a place where
nothing is. What moved since the first commit stands here; a class that moves next gets its line in the same change.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contextcir.errors import InputError

# Old module: {new module: names of the classes}. A path that still leads somewhere is none of these.
_MOVED = {
    "callbacks.pace": {"callbacks.progress": "Pace Paced"},
    "callbacks.stopping": {"callbacks.checkpoints": "StopWhenAsked"},
    "contextcir.backbone": {"contextcir.encoders.backbone": "OpenCLIPBackbone Widths"},
    "contextcir.baselines": {"contextcir.fusion.baselines": "Baseline ImageOnly Sum TextOnly"},
    "contextcir.batch": {
        "contextcir.encoders.features": "Fused ImageFeatures TextFeatures TokenBatch",
        "contextcir.encoders.phrase_texts": "QueryFeatures",
    },
    "contextcir.concept": {
        "contextcir.losses.maps": "ConceptMaps",
        "contextcir.losses.text_cc": "ConceptLoss TextConceptConsistency",
    },
    "contextcir.concept_fusion": {"contextcir.fusion.concept_attention": "ConceptAttentionFusion"},
    "contextcir.concept_maps": {"contextcir.losses.maps": "ConceptEmbeddings ConceptMaps ConceptReading"},
    "contextcir.contrastive": {"contextcir.losses.contrastive": "Candidates InfoNCE LearnedTemperatureInfoNCE Rows"},
    "contextcir.encoding": {"contextcir.training.encoding": "Distinct Encoded WholeBatch"},
    "contextcir.evaluation.metrics": {"contextcir.evaluation.composition": "CompositionMetric Coverage"},
    "contextcir.frozen": {"contextcir.encoders.frozen": "FeatureTable FrozenImageBackbone ImageList"},
    "contextcir.fusion": {
        "contextcir.fusion.blocks": "Attention FusionBlock",
        "contextcir.fusion.cross_attention": "AttentionPool",
    },
    "contextcir.fusion.cross_attention": {
        "contextcir.fusion.base": "Fusion",
        "contextcir.fusion.blocks": "FusionBlock",
    },
    "contextcir.gallery": {"contextcir.embeddings": "GalleryFeatures GalleryStore"},
    "contextcir.gradient_cache": {"contextcir.training.gradient_cache": "Chunk GradientCache Passes Results"},
    "contextcir.grounded_consistency": {"contextcir.losses.grounded": "GroundedConsistency"},
    "contextcir.grounding": {"contextcir.evaluation.grounding": "AttentionInside PhraseMetric PointingGame"},
    "contextcir.losses.inversion": {"contextcir.losses.contrastive": "WithoutTriplets"},
    "contextcir.metrics": {"contextcir.evaluation.composition": "CompositionMetric Coverage"},
    "contextcir.module": {"contextcir.training.module": "ContextCIR"},
    "contextcir.optim": {"contextcir.training.optim": "AdamWWarmupCosine AdamWWarmupRestarts"},
    "contextcir.phrase_alignment": {"contextcir.losses.grounded": "PhraseAlignment"},
    "contextcir.phrase_texts": {"contextcir.encoders.phrase_texts": "ConceptTokens PhraseTexts"},
    "contextcir.phrases.trees": {"contextcir.phrases.constituency": "Nodes Words"},
    "contextcir.protocol": {"contextcir.evaluation.protocol": "Protocol"},
    "contextcir.reference": {"contextcir.training.reference": "Settings"},
    "contextcir.scoring": {"contextcir.evaluation.scoring": "Answers"},
    "contextcir.spatial_consistency": {"contextcir.losses.text_cc": "SpatialConsistency"},
    "contextcir.submission": {
        "contextcir.evaluation.submission": "CIRCORanking CIRRRecall CIRRSubset SubmissionFormat"
    },
    "contextcir.submission_check": {"contextcir.evaluation.submission_check": "Submission"},
    "contextcir.synthesis.accounting": {"contextcir.synthesis.models.base": "Account Budget PaidModel Prices"},
    "contextcir.synthesis.batch_lines": {"contextcir.synthesis.models.batch_files": "Line"},
    "contextcir.synthesis.clip_embeddings": {"contextcir.synthesis.filters.clip_embeddings": "ClipEmbeddings"},
    "contextcir.synthesis.consistency": {"contextcir.synthesis.filters.consistency": "ClipConsistency"},
    "contextcir.synthesis.dialects": {"contextcir.synthesis.models.answers": "Dialect Format"},
    "contextcir.synthesis.duplicates": {"contextcir.synthesis.filters.repeats": "Duplicates"},
    "contextcir.synthesis.endpoint": {"contextcir.synthesis.models.endpoint": "Endpoint"},
    "contextcir.synthesis.exchange": {"contextcir.synthesis.models.chat": "ChatModel Exchange"},
    "contextcir.synthesis.exports.cirr_rewritten": {"contextcir.synthesis.outputs.exports": "CIRRRewritten"},
    "contextcir.synthesis.exports.export": {"contextcir.synthesis.outputs.exports": "Export Triplet"},
    "contextcir.synthesis.exports.hotel": {"contextcir.synthesis.outputs.exports": "HotelCIR"},
    "contextcir.synthesis.exports.lasco": {"contextcir.synthesis.outputs.exports": "LaSCo"},
    "contextcir.synthesis.figures": {"contextcir.synthesis.outputs.card": "Figures StageFigures"},
    "contextcir.synthesis.filters": {
        "contextcir.synthesis.filters.base": "Candidate CaptionFilter Consistency Consistent Filter Finding HasPhrase "
        "Language Length NamesNoImage"
    },
    "contextcir.synthesis.group_writer": {"contextcir.synthesis.store": "GroupWriter"},
    "contextcir.synthesis.images": {"contextcir.synthesis.models.chat": "ImageLimits"},
    "contextcir.synthesis.leaks": {"contextcir.synthesis.filters.repeats": "LeaksNothing"},
    "contextcir.synthesis.local_model": {"contextcir.synthesis.models.local": "LocalModel"},
    "contextcir.synthesis.lookup": {"contextcir.synthesis.store": "Lookup"},
    "contextcir.synthesis.mining.files": {"contextcir.synthesis.photos": "Listing"},
    "contextcir.synthesis.mining.images": {"contextcir.synthesis.photos": "Listing"},
    "contextcir.synthesis.mining.loading": {"contextcir.synthesis.mining.images": "ImageFiles LoadedImage"},
    "contextcir.synthesis.mining.source": {"contextcir.synthesis.mining.pairs": "MinedPairs"},
    "contextcir.synthesis.mining.vectors": {"contextcir.synthesis.mining.encoder": "Vectors"},
    "contextcir.synthesis.models": {
        "contextcir.synthesis.models.base": "Answer BudgetSpent Request VisionLanguageModel"
    },
    "contextcir.synthesis.models.batch_folder": {"contextcir.synthesis.models.batch_files": "Line"},
    "contextcir.synthesis.outputs.exports.export": {"contextcir.synthesis.outputs.exports": "Export Triplet"},
    "contextcir.synthesis.outputs.exports.hotel": {"contextcir.synthesis.outputs.exports": "CIRRRewritten HotelCIR"},
    "contextcir.synthesis.outputs.exports.lasco": {"contextcir.synthesis.outputs.exports": "LaSCo"},
    "contextcir.synthesis.pacing": {"contextcir.synthesis.models.pacing": "Pace Pacer"},
    "contextcir.synthesis.pair_files": {"contextcir.synthesis.pairs": "ImageSource PairFile PairSource"},
    "contextcir.synthesis.retries": {"contextcir.synthesis.models.pacing": "Retries"},
    "contextcir.synthesis.runner": {"contextcir.synthesis.stages": "Run Tally"},
    "contextcir.synthesis.shards": {"contextcir.synthesis.store": "Shard"},
    "contextcir.synthesis.sheet": {"contextcir.synthesis.outputs.sheet": "EmbeddedImages LinkedImages SheetImages"},
    "contextcir.synthesis.split": {"contextcir.synthesis.outputs.manifest": "Components"},
    "contextcir.synthesis.stages": {"contextcir.synthesis.request_stage": "Item"},
    "contextcir.synthesis.structured": {"contextcir.synthesis.models.answers": "Flaw"},
    "contextcir.synthesis.troubles": {"contextcir.synthesis.models.client": "ServerError TooLarge"},
    "contextcir.synthesis.writer": {"contextcir.synthesis.outputs.manifest": "Written"},
    "contextcir.text": {"contextcir.encoders.text": "Encoding Tokenizer"},
    "data_modules.annotations": {"data_modules.reading.annotations": "AnnotationFile"},
    "data_modules.circo": {"data_modules.benchmarks": "CIRCO"},
    "data_modules.cirr": {"data_modules.benchmarks": "CIRR"},
    "data_modules.crops": {"data_modules.genecis": "Crop CropStore"},
    "data_modules.fashioniq": {"data_modules.benchmarks": "FashionIQ"},
    "data_modules.fashioniq_choices": {
        "data_modules.fashioniq": "BothOrders CaptionText CategoryGallery FirstAndSecond OriginalGallery "
        "SecondAndFirst VALGallery"
    },
    "data_modules.frozen": {"data_modules.loading.rows": "ImageRows"},
    "data_modules.gallery": {
        "data_modules.loading.gallery": "GallerySampler StoredGallery StoredGalleryLoader StoredItem"
    },
    "data_modules.genecis": {"data_modules.benchmarks": "GeneCIS"},
    "data_modules.image_check": {"data_modules.checking.images": "ImageFile"},
    "data_modules.images": {"data_modules.loading.images": "ImageStore"},
    "data_modules.inspection": {"data_modules.checking.inspection": "Problem Report"},
    "data_modules.lasco": {"data_modules.benchmarks": "LaSCo"},
    "data_modules.loading.query_subsets": {"data_modules.reading.query_subsets": "QuerySubsets"},
    "data_modules.manifest": {"data_modules.benchmarks": "Manifest"},
    "data_modules.replay": {"data_modules.loading.sampling": "Draw"},
    "data_modules.sampling": {
        "data_modules.loading.sampling": "GroupedByImageSet GroupedByReference OrderSampler Shuffled TrainingOrder"
    },
    "data_modules.scenes": {"data_modules.benchmarks": "Scenes"},
    "data_modules.triplets": {
        "data_modules.loading.triplets": "GalleryDataset GalleryItem QueryDataset QueryItem TripletDataset TripletItem",
        "data_modules.records": "Evaluation PhraseRecord QueryRecord TrainingSet",
    },
    "experiments.benchmarks.faulty_describer": {"experiments.quality.faulty_describer": "FaultyDescriber FaultyGraphs"},
    "experiments.controls": {"experiments.study.controls": "MismatchedConsistency"},
}
# Old path, and old bare name: the class that took its place, with settings of its own.
_REPLACED = {
    f"{module}{name}": "contextcir.synthesis.models.batch_files.BatchFiles"
    for name, rooms in {
        "BatchEndpoint": ("", "contextcir.synthesis.batch_endpoint.", "contextcir.synthesis.models.batch_endpoint."),
        "BatchFolder": ("", "contextcir.synthesis.batch_folder.", "contextcir.synthesis.models.batch_folder."),
    }.items()
    for module in rooms
}


@functools.cache
def moved() -> Mapping[str, str]:
    """Return the paths of classes that moved: old path to new path."""
    return {
        f"{old}.{name}": f"{new}.{name}"
        for old, rooms in _MOVED.items()
        for new, names in rooms.items()
        for name in names.split()
    }


def replaced() -> Mapping[str, str]:
    """Return the paths and bare names of classes that others took the place of: old to new path."""
    return _REPLACED


def told(text: str) -> str | None:
    """Return what is wrong with a text that is a class path of an earlier version; None for all others."""
    if text in moved():
        return f"{text} was renamed: use {moved()[text]}"
    if text in _REPLACED:
        return f"{text} was replaced: use {_REPLACED[text]}, which has settings of its own"
    return None


def current(settings: Mapping[str, Any], file: str | Path | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the settings of a checkpoint with new paths for classes that moved, and these: old path to new path.

    A checkpoint can't be edited as a config can, so its settings are put right where that is possible.

    Raises:
        InputError: if they name a class that another took the place of.
    """
    old: dict[str, str] = {}

    def put_right(value: Any, key: str) -> Any:
        if isinstance(value, Mapping):
            return {name: put_right(inner, f"{key}.{name}".strip(".")) for name, inner in value.items()}
        if not isinstance(value, str):
            return value
        if value in moved():
            old[value] = moved()[value]
            return old[value]
        if problem := told(value):
            raise InputError(problem, file=file, setting=key.replace(".init_args", "").removesuffix(".class_path"))
        return value

    return put_right(settings, ""), old
