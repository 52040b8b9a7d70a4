"""The way of the published code, in our words: the same loss at about twice the cost, as a yardstick."""

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.batch import TripletBatch
from contextcir.encoders.features import ImageFeatures, TextFeatures, TokenBatch
from contextcir.losses.maps import ConceptMaps
from contextcir.training.module import ContextCIR

CHUNK = 32  # phrases that are read at a time


class PublishedWay(ContextCIR):
    """`ContextCIR` with `TextConceptConsistency`, computed as in column cc07007 of paper section 1.2.

    All texts are padded to the model's context length. For every phrase, also where it was met before, its image is
    encoded again, the phrase alone is encoded, and both are composed to the end, of which only the maps are read.
    """

    def losses(self, batch: TripletBatch) -> dict[str, Tensor]:
        """As those of `ContextCIR`; every image that the batch names twice is encoded twice."""
        images = self.backbone.encode_image(torch.cat([batch.query.reference, batch.target]))
        reference, target = images.embedding.chunk(2)  # (B, E)
        tokens = images.tokens.chunk(2)[0]  # (B, V, D)
        fused = self.fusion(ImageFeatures(tokens, reference), self.encode_padded(batch.query.captions))
        contrastive = self.contrastive(fused.embedding, target, reference, batch.target_id, batch.reference_id)
        concept = self.concept.of(self.maps(batch, fused.attention))
        return {"loss": contrastive + self.concept.weight * concept, "contrastive": contrastive, "concept": concept}

    def maps(self, batch: TripletBatch, context: tuple[Tensor, ...]) -> ConceptMaps:
        """Attention in context, which is there already, and a whole second pass for the phrases alone."""
        query, tokenizer = batch.query, self.backbone.tokenizer
        owner, spans, _ = query.phrases
        texts = tokenizer.isolated(query.captions, owner, spans)
        chunks = [
            self.alone(query.reference[owner[start : start + CHUNK]], texts[start : start + CHUNK])
            for start in range(0, len(texts), CHUNK)
        ]
        isolated = tuple(torch.cat(layer) for layer in zip(*chunks, strict=True))  # L times (P, H, V, 77)
        of_phrase = functional.pad(tokenizer.content(tokenizer(texts)), (0, self.missing(texts)))  # (P, 77)
        in_caption = tokenizer.span_tokens(query.captions, owner, spans)
        in_caption = functional.pad(in_caption, (0, self.missing(query.captions)))  # (P, 77)
        row = torch.arange(len(texts), device=owner.device)
        return ConceptMaps(context, isolated, owner, row, in_caption, of_phrase.to(owner.device))

    @torch.no_grad()
    def alone(self, images: Tensor, texts: list[str]) -> tuple[Tensor, ...]:
        """L maps (P, H, V, 77) of P phrases, each over its own image (P, 3, S, S)."""
        return self.fusion(self.backbone.encode_image(images), self.encode_padded(texts)).attention

    def encode_padded(self, texts: list[str]) -> TextFeatures:
        """Texts at the model's context length: tokens (B, 77, Dt)."""
        ids, valid = self.backbone.tokenizer(texts)
        padding = (0, self.missing(texts))
        return self.backbone.encode_text(TokenBatch(functional.pad(ids, padding), functional.pad(valid, padding)))

    def missing(self, texts: list[str]) -> int:
        """How many tokens the longest of these texts falls short of the context length."""
        return self.backbone.tokenizer.context_length - self.backbone.tokenizer(texts).ids.shape[1]
