"""Embedders: models of others, which an evaluation ranks by the same protocols as a trained one."""

from typing import TYPE_CHECKING

from contextcir.lazy import lazy_exports

if TYPE_CHECKING:
    from contextcir.embedders.base import Embedder, EmbeddingSource
    from contextcir.embedders.caption_then_retrieve import CaptionThenRetrieve
    from contextcir.embedders.features_file import FeaturesFile
    from contextcir.embedders.open_clip_embedder import OpenCLIPEmbedder
    from contextcir.embedders.reranker import ChatReranker, Reranker
    from contextcir.embedders.sentence_embedder import SentenceTransformersEmbedder
    from contextcir.embedders.server import ServerEmbedder

__all__ = [
    "CaptionThenRetrieve",
    "ChatReranker",
    "Embedder",
    "EmbeddingSource",
    "FeaturesFile",
    "OpenCLIPEmbedder",
    "Reranker",
    "SentenceTransformersEmbedder",
    "ServerEmbedder",
]

# Lazy: most need packages that others do not.
__getattr__ = lazy_exports(
    __name__,
    {
        "base": ["Embedder", "EmbeddingSource"],
        "caption_then_retrieve": ["CaptionThenRetrieve"],
        "features_file": ["FeaturesFile"],
        "open_clip_embedder": ["OpenCLIPEmbedder"],
        "reranker": ["ChatReranker", "Reranker"],
        "sentence_embedder": ["SentenceTransformersEmbedder"],
        "server": ["ServerEmbedder"],
    },
)
