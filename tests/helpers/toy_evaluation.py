"""A model and data with known answers, to run callbacks in a real Trainer within a second.

The "images" are 4 x 4 pixels whose first channel is the embedding; captions such as ``see 3: red ball, blue box``
name a row of the text embeddings. Attention is even but for the words and patches of `PEAKS`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from contextcir.batch import GalleryBatch, Phrases, QueryBatch
from contextcir.encoders.features import Fused, ImageFeatures, TextFeatures
from contextcir.encoders.phrase_texts import QueryFeatures
from contextcir.evaluation.composition import CompositionMetric
from contextcir.evaluation.metrics import AveragePrecisionAt, RecallAt, SubsetRecallAt
from contextcir.evaluation.protocol import Protocol

QUERIES, GALLERY, SIDE = 7, 11, 4
GRID = (4, 4)
NAN = float("nan")
PHRASES = ("red ball", "blue box")
# Patch at which the attention to each word of the captions peaks: the first phrase's and the second one's.
PEAKS = {"red": 5, "ball": 5, "blue": 15, "box": 15}
BOXES = ((0.25, 0.25, 0.5, 0.5), (0.0, 0.0, 0.5, 0.25))  # the first holds exactly patch 5, the second patches 0 and 1


class Widths(NamedTuple):
    """As of a backbone."""

    vision: int = 4
    text: int = 4
    embed: int = SIDE * SIDE


class WordTokenizer:
    """One token per word, between a start and an end."""

    def clean(self, caption: str) -> str:
        return caption

    def span_tokens(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> Tensor:
        length = max(len(caption.split(" ")) for caption in captions) + 2
        mask = torch.zeros(len(owner), length, dtype=torch.bool)
        for phrase, (row, (start, end)) in enumerate(zip(owner.tolist(), spans.tolist(), strict=True)):
            first = captions[row][:start].count(" ") + 1
            mask[phrase, first : first + captions[row][start:end].count(" ") + 1] = True
        return mask


class Backbone(nn.Module):
    """The attributes that callbacks ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.widths = Widths()
        self.grid = GRID
        self.tokenizer = WordTokenizer()


class PhraseTokens(NamedTuple):
    """Of `PhraseTexts`, what the maps of phrases need."""

    owner: Tensor
    tokens: Tensor
    slot: Tensor


class TokenFusion:
    """A fusion whose keys are the tokens."""

    def keys_of_phrases(self, tokens: Tensor, slot: Tensor) -> Tensor:
        return tokens


class ToyModule(LightningModule):
    """``fused`` is image + text times a gain of 3, so that the composed row differs from the sum."""

    def __init__(self, with_maps: bool = True) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.fusion = TokenFusion()
        self.preprocess = None
        self.gain = nn.Parameter(torch.tensor(3.0))
        self.with_maps = with_maps
        self.encoded_images = 0
        self.metrics = nn.ModuleList()

    def encode_query(self, batch: QueryBatch) -> QueryFeatures:
        assert not self.training and not torch.is_grad_enabled()
        image = self.encode_image(batch.reference)
        rows = [int(caption.split(" ")[1].rstrip(":")) for caption in batch.captions]
        text = text_embeddings()[rows].to(self.device)
        maps = tuple(self.maps(batch.captions) for _ in range(2)) if self.with_maps else ()
        valid = torch.ones(len(rows), 1, dtype=torch.bool)
        tokens = self.backbone.tokenizer.span_tokens(batch.captions, batch.phrases.owner, batch.phrases.spans)
        phrases = PhraseTokens(batch.phrases.owner, tokens, torch.zeros_like(batch.phrases.owner))
        fused = Fused(image.embedding + self.gain * text, maps)
        return QueryFeatures(image, TextFeatures(text[:, None], valid, text), fused, phrases)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        self.encoded_images += len(images)
        return ImageFeatures(images[:, 0], images[:, 0].flatten(1))

    def maps(self, captions: Sequence[str]) -> Tensor:
        length = max(len(caption.split(" ")) for caption in captions) + 2
        maps = torch.full((len(captions), 2, 1 + GRID[0] * GRID[1], length), 0.1)
        maps[:, :, 0] = 9.0  # the class token must not count
        for row, caption in enumerate(captions):
            for token, word in enumerate(caption.replace(",", "").split(" "), start=1):
                if word in PEAKS:
                    maps[row, :, 1 + PEAKS[word], token] = 1.0
        return maps

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return 0.0 * self.gain

    def validation_step(
        self, batch: QueryBatch | GalleryBatch, batch_idx: int, dataloader_idx: int = 0
    ) -> QueryFeatures | ImageFeatures:
        metric = self.metrics[dataloader_idx // 2] if self.metrics else None
        if isinstance(batch, QueryBatch):
            query = self.encode_query(batch)
            if metric is not None:
                metric.update_queries(batch.index, query.fused.embedding)
            return query
        image = self.encode_image(batch.image)
        if metric is not None:
            metric.update_gallery(batch.index, image.embedding)
        return image

    test_step = validation_step

    def on_validation_start(self) -> None:
        self.metrics = nn.ModuleList(map(CompositionMetric, self.trainer.datamodule.protocols("val")))

    def on_test_start(self) -> None:
        self.metrics = nn.ModuleList(map(CompositionMetric, self.trainer.datamodule.protocols("test")))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Numbers(Dataset[int]):
    """0, 1, ... size - 1."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> int:
        return index


class ToyData(LightningDataModule):
    """Two protocols for validation, one for the test; loaders in pairs."""

    def __init__(self, phrases: bool = True, boxes: bool = True, labelled: bool = True) -> None:
        super().__init__()
        self.phrases, self.boxes, self.labelled = phrases, boxes, labelled
        self.asked: list[list[int]] = []

    def protocols(self, stage: str) -> list[Protocol]:
        return [make_protocol(split, self.labelled) for split in {"val": ("val", "hard"), "test": ("test",)}[stage]]

    def query_batch(self, stage: str, protocol_index: int, indices: Sequence[int]) -> QueryBatch:
        self.asked.append(list(indices))
        return self.collate(indices)

    def target_image(self, stage: str, protocol_index: int, index: int) -> Image.Image | None:
        return Image.new("L", (30, 20), 128) if self.labelled else None

    def collate(self, indices: Sequence[int]) -> QueryBatch:
        texts = [caption(index, self.phrases) for index in indices]
        named = [
            (row, (text.index(words), text.index(words) + len(words)), box if self.boxes else (NAN,) * 4)
            for row, text in enumerate(texts)
            for words, box in zip(PHRASES, BOXES, strict=True)
            if words in text
        ]
        owner, spans, boxes = (list(column) for column in zip(*named, strict=True)) if named else ([], [], [])
        references = image_embeddings()[[reference(index) for index in indices]]  # (B, E)
        return QueryBatch(
            torch.tensor(list(indices)),
            references.view(-1, 1, SIDE, SIDE).repeat(1, 3, 1, 1),
            texts,
            Phrases(
                torch.tensor(owner, dtype=torch.int64),
                torch.tensor(spans, dtype=torch.int64).view(-1, 2),
                torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
            ),
        )

    def collate_gallery(self, indices: Sequence[int]) -> GalleryBatch:
        images = image_embeddings()[list(indices)].view(-1, 1, SIDE, SIDE).repeat(1, 3, 1, 1)
        return GalleryBatch(torch.tensor(list(indices)), images)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(Numbers(2))

    def val_dataloader(self) -> list[DataLoader]:
        return 2 * self.test_dataloader()

    def test_dataloader(self) -> list[DataLoader]:
        return [
            DataLoader(Numbers(GALLERY), batch_size=4, collate_fn=self.collate_gallery),
            DataLoader(Numbers(QUERIES), batch_size=3, collate_fn=self.collate),
        ]


def make_protocol(split: str, labelled: bool = True) -> Protocol:
    """Targets are the images after the references; each query has a subset of four."""
    return Protocol(
        benchmark="toy",
        split=split,
        gallery=tuple(f"image-{i}" for i in range(GALLERY)),
        query_ids=tuple(range(100, 100 + QUERIES)),
        targets=tuple((reference(i) + 1,) if labelled else () for i in range(QUERIES)),
        references=tuple(reference(i) for i in range(QUERIES)),
        exclude_reference=True,
        subsets=tuple(tuple(range(reference(i), reference(i) + 4)) for i in range(QUERIES)),
        metrics=(*RecallAt.at(1, 5), SubsetRecallAt(1), AveragePrecisionAt(5)),
        strata={"concepts_1": (0, 1, 2), "concepts_2": (3, 4, 5, 6)},
    )


def reference(query: int) -> int:
    """Return the gallery index of a query's reference."""
    return query


def caption(query: int, phrases: bool) -> str:
    """Return a caption with both phrases, and with the first only for odd queries."""
    named = ", ".join(PHRASES[: 1 + (query + 1) % 2]) if phrases else "nothing"
    return f"see {query}: {named}"


def image_embeddings() -> Tensor:
    """Return the embedding (GALLERY, E) of each image."""
    return torch.randn(GALLERY, SIDE * SIDE, generator=torch.Generator().manual_seed(3))


def text_embeddings() -> Tensor:
    """Return the embedding (QUERIES, E) of each caption: from the reference towards the target, with noise."""
    images, noise = image_embeddings(), torch.randn(QUERIES, SIDE * SIDE, generator=torch.Generator().manual_seed(4))
    return torch.stack(
        [0.3 * (images[reference(i) + 1] - images[reference(i)]) + 0.4 * noise[i] for i in range(QUERIES)]
    )
