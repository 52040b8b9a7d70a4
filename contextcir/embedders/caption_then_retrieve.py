"""Composed queries by words alone: a model captions the reference and edits the caption; CLIP searches by the text."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from contextcir.embedders.base import Embedder, Unfinished, check_queries
from contextcir.embedders.exchanges import ask_all
from contextcir.embedders.kept_answers import KeptAnswers
from contextcir.errors import InputError
from contextcir.synthesis.models.base import Answer, Request, Stopped, VisionLanguageModel
from contextcir.synthesis.models.client import ServerError

CAPTION = (
    "You describe images for an image search. Write one caption that names every object of the image, with its "
    "attributes and place, and the background. At most two sentences."
)
EDIT = (
    "You are given the description of an image, and an instruction that changes the image. Write the description of "
    "the changed image: what the instruction asks for, and what it leaves as it was and still matters. Describe the "
    "changed image only, not the change, invent nothing, and be as short as you can."
)


def _schema(field: str) -> dict[str, Any]:
    properties = {field: {"type": "string", "minLength": 1}}
    return {"type": "object", "properties": properties, "required": [field], "additionalProperties": False}


class CaptionThenRetrieve(Embedder):
    """CIReVL: q = T(edit(caption(image), text)), where a vision-language model captions and edits.

    Karthik et al., Vision-by-Language for Training-Free Compositional Image Retrieval (ICLR 2024);
    github.com/ExplainableML/Vision_by_Language, src/utils.py and src/prompts.py. There BLIP-2 captions and GPT-3.5
    edits; here one model does both. The prompts are this project's own, and the answer is a field of JSON in place of a
    line after "Edited Description:". As published, a query whose edit fails is searched by its instruction alone.
    Queries of an image alone are its caption, those of a text alone the text: nothing is edited.

    An image is captioned once, and an edit asked for once: answers are kept in a file. The budget is that of the chat
    model, with what earlier processes used.

    Args:
        chat: the model that captions and edits: ``Endpoint`` for servers, ``LocalModel`` for one in this process.
        clip: embeds the descriptions, and the candidates.
        revision: of the chat model, for the result and the file of answers.
        answers: file of answers, JSON lines; null to keep none.
        caption_prompt: what the model is told before an image.
        edit_prompt: what it is told before a description and an instruction.

    Raises (from `embed_query`):
        Unfinished: if the budget is spent, the servers are gone, or an image can't be captioned.
    """

    def __init__(
        self,
        chat: VisionLanguageModel,
        clip: Embedder,
        revision: str | None = None,
        answers: Path | None = None,
        caption_prompt: str = CAPTION,
        edit_prompt: str = EDIT,
    ) -> None:
        for name, prompt in (("caption_prompt", caption_prompt), ("edit_prompt", edit_prompt)):
            if not prompt.strip():
                raise InputError("expected a prompt, got an empty text", setting=f"embedder.{name}")
        self.chat, self.clip = chat, clip
        self.name = f"{chat.name} > {clip.name}"
        self.chat_revision = revision
        self.licence, self.instruction = clip.licence, edit_prompt
        self.caption_prompt = caption_prompt
        self.batch = clip.batch
        self.answers = KeptAnswers(answers, "text", str)
        self._spent: dict[str, float] = {}
        self._begun = False

    @property
    def revision(self) -> str | None:  # type: ignore[override]
        """Those of both models."""
        return f"{self.chat_revision} > {self.clip.revision}"

    @property
    def dimension(self) -> int:
        """The length of an embedding."""
        return self.clip.dimension

    def settings(self) -> dict[str, Any]:
        """Return what else changes embeddings."""
        return {"chat": self.chat.name, "caption_prompt": self.caption_prompt, "clip": self.clip.describe()}

    def embed_query(self, images: Sequence[Image.Image | None], texts: Sequence[str | None]) -> Tensor:
        """Return the embeddings (B, E) of the edited captions."""
        check_queries(images, texts)
        described, cause = self.descriptions(images, texts)
        rows = [row for row, text in enumerate(described) if text is not None]
        done = [text for text in described if text is not None]
        embeddings = self.clip.embed_query([None] * len(done), done) if done else torch.empty(0, self.dimension)
        if cause is not None:
            raise Unfinished(rows, embeddings, cause)
        return embeddings

    def embed_image(self, images: Sequence[Image.Image]) -> Tensor:
        """Return the embeddings (B, E) of candidates."""
        return self.clip.embed_image(images)

    def descriptions(
        self, images: Sequence[Image.Image | None], texts: Sequence[str | None]
    ) -> tuple[list[str | None], Exception | None]:
        """Return what each query is searched by, None where that could not be had, and the reason if there is such."""
        keys = [None if image is None else self._key(_digest(image)) for image in images]
        wanted = {key: image for key, image in zip(keys, images, strict=True) if key is not None and image is not None}
        with TemporaryDirectory() as folder:  # requests name their images as files
            requests = []
            for key, image in wanted.items():
                if key not in self.answers.known():
                    path = Path(folder) / f"{key}.png"
                    image.save(path)
                    user = "Describe this image."
                    requests.append(Request(key, self.caption_prompt, user, _schema("caption"), images=(path,)))
            failed, cause = self._ask(requests, "caption")
        if cause is None and failed:
            failure = next(iter(failed.values()))
            detail = f": {failure.detail}" if failure.detail else ""
            cause = InputError(f"{self.chat.name}: an image has no caption, {failure.failure}{detail}")
        captions = [None if key is None else self.answers.known().get(key) for key in keys]
        edits: dict[int, str] = {}
        asked: dict[str, Request] = {}
        for row, (caption, text) in enumerate(zip(captions, texts, strict=True)):
            if caption is not None and text is not None:
                user = f"Description: {caption}\nInstruction: {text}"
                edits[row] = key = self._key(user)
                if key not in self.answers.known():
                    asked[key] = Request(key, str(self.instruction), user, _schema("description"))
        failed = {}
        if not isinstance(cause, Stopped | ServerError):
            failed, stopped = self._ask(list(asked.values()), "description")
            cause = stopped or cause
        described: list[str | None] = []
        for row, text in enumerate(texts):
            if row in edits:
                described.append(text if edits[row] in failed else self.answers.known().get(edits[row]))
            else:
                described.append(text if keys[row] is None else captions[row] if text is None else None)
        return described, cause

    def spent(self) -> dict[str, float]:
        """Return what was used so far."""
        return dict(self._spent)

    def count_earlier(self, usages: Iterable[Mapping[str, float]]) -> None:
        """Count what earlier processes used."""
        self.chat.count_earlier(usages)

    def _ask(self, requests: Sequence[Request], field: str) -> tuple[dict[str, Answer], Exception | None]:
        """Send requests and keep their answers; return those that failed for good, and what stopped the rest."""
        failed: dict[str, Answer] = {}

        def receive(answer: Answer) -> None:
            for name, value in answer.usage.items():
                self._spent[name] = self._spent.get(name, 0.0) + value
            text = "" if answer.content is None else str(answer.content[field]).strip()
            if text:
                self.answers.keep({answer.key: text})
            else:
                failed[answer.key] = answer

        if requests and not self._begun:
            self.chat.begin(0, 1)
            self._begun = True
        return failed, ask_all(self.chat, {"model": "embedder.chat"}, requests, receive)[1] if requests else None

    def _key(self, content: str) -> str:
        """Return a name for a question that changes with all that decides its answer."""
        decided = [self.chat.name, self.chat_revision, self.caption_prompt, self.instruction, content]
        return hashlib.sha256(json.dumps(decided).encode()).hexdigest()[:32]


def _digest(image: Image.Image) -> str:
    content = f"{image.size}{image.mode}".encode() + image.tobytes()
    return hashlib.sha256(content).hexdigest()
