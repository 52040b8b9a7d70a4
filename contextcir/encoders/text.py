"""Captions to token ids, and character spans of a caption to the positions of its tokens.

open_clip is imported only by the functions that need it: with timm, torchvision and wandb it takes seconds.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from contextcir import assets
from contextcir.encoders.downloads import hub_file
from contextcir.encoders.features import TokenBatch
from contextcir.encoders.folders import CONFIG, read_config
from contextcir.errors import InputError, MissingFileError, shown
from contextcir.phrases.parser import clean

SETTING = "model.backbone.model"
CACHED_CAPTIONS = 65_536
CACHED_WORDS = 65_536
PAD = 0  # as open_clip pads; also the id of the token "!", so padding can't be recognised by its id


class Encoding(NamedTuple):
    """A cleaned ``text``, its ``ids`` with start and end; ``ids[i + 1]`` covers characters ``[starts[i], ends[i])``."""

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def open_clip_name(model: str) -> str:
    """Return open_clip's name of a model: embedded ones and those of the Hub become the folders that they lie in.

    Raises:
        InputError: for a name that open_clip does not know, with close matches, and for a folder whose configuration
            can't be used.
        MissingFileError: for a folder that does not exist.
    """
    import open_clip

    name = model
    if model in assets.MODELS:
        name = f"local-dir:{assets.unpack(model)}"
    elif model.startswith("hf-hub:"):
        repository = model.removeprefix("hf-hub:")
        config = hub_file(repository, (CONFIG,), "the settings of the model", "give local-dir:FOLDER", SETTING)
        name = f"local-dir:{config.parent}"
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:"))
        if not os.path.lexists(folder / CONFIG):
            raise MissingFileError(
                f"no such file, needed by model {shown(model)}", file=folder / CONFIG, setting=SETTING
            )
        read_config(folder, SETTING)
    elif open_clip.get_model_config(name) is None if ":" not in name else True:
        close = get_close_matches(name, [*assets.MODELS, *open_clip.list_models()], n=5, cutoff=0.5)
        raise InputError(f"no model {shown(name)}; close to it: {', '.join(close) or 'none'}", setting=SETTING)
    return name


class Tokenizer:
    """CLIP's byte-pair encoding with character-exact alignment.

    A caption is cleaned first (markup entities, white space, lower case; `clean`), and all spans refer to the cleaned
    text. Blank captions become [start, end]. Captions that are longer than the model's context are truncated, with the
    end token last; so are captions that spell out the end token.

    Raises:
        InputError: for models with another kind of tokenizer.
    """

    def __init__(self, model: str = "ViT-B-32") -> None:
        import open_clip
        from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

        self.model = model
        name = open_clip_name(model)
        config = open_clip.get_model_config(name) or {}
        # Checked before open_clip builds the tokenizer: it would try to download another kind of it.
        text = config.get("text_cfg") or {}
        foreign = text.get("hf_tokenizer_name") or (":" not in name and "siglip" in name.lower())
        bpe = None if foreign else open_clip.get_tokenizer(name)
        if not isinstance(bpe, SimpleTokenizer) or bpe.reduction_fn is not None:
            raise InputError(
                f"model '{model}' has no CLIP byte-pair tokenizer, which is needed to find phrases in captions: "
                "choose a CLIP model such as ViT-B-32",
                setting=SETTING,
            )
        self._bpe = bpe
        self.context_length = int(bpe.context_length)
        self._lowers = bpe.clean_fn is get_clean_fn("lower")
        self._encode = lru_cache(CACHED_CAPTIONS)(self._encode_uncached)
        self._spell = lru_cache(CACHED_WORDS)(self._spell_uncached)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str]]:
        return Tokenizer, (self.model,)  # a cache can't be pickled, and needn't travel

    def clean(self, caption: str) -> str:
        """Return the caption as the encoder reads it; spans of phrases count characters of this text.

        The same as `contextcir.phrases.parser.clean`, for all models of CLIP.
        """
        return clean(caption) if self._lowers else self._bpe.clean_fn(caption)

    def __call__(self, captions: Sequence[str]) -> TokenBatch:
        """Return token ids (B, T) and their validity, T being the longest of these captions (2 without any)."""
        return self.pad([encoding.ids for encoding in self._encode_all(captions)])

    def span_tokens(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> Tensor:
        """Return the mask (P, T) of the tokens that overlap each phrase, on the device of `spans`; T as for captions.

        ``owner`` (P,) row of the caption, ``spans`` (P, 2) characters ``[start, end)`` of the cleaned caption. The row
        of a phrase that was truncated with the end of a long caption is all false. Raises ValueError for a span that is
        empty or not inside its caption.
        """
        encodings = self._encode_all(captions)
        length = max((len(encoding.ids) for encoding in encodings), default=2)
        first, last = [], []
        for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
            self._check(captions[row], start, end)
            first.append(1 + bisect_right(encodings[row].ends, start))  # 1: the start token has no characters
            last.append(1 + bisect_left(encodings[row].starts, end))
        position = torch.arange(length, device=spans.device)
        first_token, end_token = (torch.tensor(x, device=spans.device).long()[:, None] for x in (first, last))
        return (position >= first_token) & (position < end_token)  # (P, T)

    def isolated(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> list[str]:
        """Return the P phrases as texts. Raises ValueError for a span that is empty or not inside its caption."""
        texts = []
        for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
            self._check(captions[row], start, end)
            texts.append(self._encode(captions[row]).text[start:end])
        return texts

    def encode_isolated(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> TokenBatch:
        """Return the tokens (P, T) of the `isolated` phrases, many times faster than by encoding them as texts.

        A phrase of whole words has the same tokens as in its caption, which was encoded already and is clean.
        """
        rows = []
        for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
            self._check(captions[row], start, end)
            encoding = self._encode(captions[row])
            inner = self._whole_words(encoding, start, end)
            rows.append(self._encode(encoding.text[start:end]).ids if inner is None else inner)
        return self.pad(rows)

    def parts(self, caption: str, spans: Sequence[tuple[int, int]]) -> list[tuple[tuple[int, ...], range]]:
        """Return the ids of parts of a caption as texts of their own, and which tokens of the caption each has.

        ``spans``: characters ``[start, end)`` of the cleaned caption; without any, the whole caption is one part. The
        first token of a part after its start token stands for the first of the range, and so on. Raises ValueError for
        a span that is empty or not inside its caption.
        """
        encoding = self._encode(caption)
        if not spans:
            return [(encoding.ids, range(1, len(encoding.ids) - 1))]
        parts = []
        for start, end in spans:
            self._check(caption, start, end)
            inner = self._whole_words(encoding, start, end)
            ids = self._encode(encoding.text[start:end]).ids if inner is None else inner
            first, last = 1 + bisect_right(encoding.ends, start), 1 + bisect_left(encoding.starts, end)
            parts.append((ids, range(first, min(last, first + len(ids) - 2))))
        return parts

    @staticmethod
    def content(tokens: TokenBatch) -> Tensor:
        """Return the mask (B, T) of the valid tokens without the start and end of text."""
        inner = tokens.valid.clone()
        inner[:, 0] = False
        inner[:, :-1] &= tokens.valid[:, 1:]  # the last valid token is the end of text
        inner[:, -1] = False
        return inner

    def _check(self, caption: str, start: int, end: int) -> None:
        length = len(self._encode(caption).text)
        if not 0 <= start < end <= length:
            raise ValueError(
                f"phrase span [{start}, {end}) is not inside the caption {caption!r}, which has {length} "
                "characters after cleaning"
            )

    def _whole_words(self, encoding: Encoding, start: int, end: int) -> tuple[int, ...] | None:
        """Return the ids of the text ``[start, end)``, or None unless it begins and ends at words and is in the ids."""
        first, last = bisect_left(encoding.starts, start), bisect_right(encoding.ends, end) - 1
        if last < first or (encoding.starts[first], encoding.ends[last]) != (start, end):
            return None
        before, inner = encoding.ids[first], encoding.ids[first + 1 : last + 2]  # ids begin with the start of text
        if (first and not self._ends_word(before)) or not self._ends_word(inner[-1]):
            return None
        return (encoding.ids[0], *inner, encoding.ids[-1])

    def _ends_word(self, token: int) -> bool:
        return self._bpe.decoder[token].endswith("</w>")

    @staticmethod
    def pad(encoded: Sequence[tuple[int, ...]]) -> TokenBatch:
        """Return texts, given as ids with start and end, as one batch."""
        length = max((len(ids) for ids in encoded), default=2)
        rows = [ids + (PAD,) * (length - len(ids)) for ids in encoded]
        lengths = torch.tensor([len(ids) for ids in encoded], dtype=torch.long)  # (B,)
        ids = torch.tensor(rows, dtype=torch.long).reshape(len(rows), length)  # (B, T)
        return TokenBatch(ids, torch.arange(length) < lengths[:, None])

    def _encode_all(self, captions: Sequence[str]) -> list[Encoding]:
        if isinstance(captions, str):
            raise ValueError(f"expected a list of captions, got the single text {captions!r}: put it in a list")
        return [self._encode(caption) for caption in captions]

    def _encode_uncached(self, caption: str) -> Encoding:
        text = self.clean(caption)
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        for match in self._bpe.pat.finditer(text):
            first, word = match.start(), self._spell(match.group())
            ids += word.ids
            starts += [first + start for start in word.starts]
            ends += [first + end for end in word.ends]
        # A causal tower that is read at the first end token does not depend on anything after it.
        room = self.context_length - 2
        if self._bpe.eot_token_id in ids:
            room = min(room, ids.index(self._bpe.eot_token_id))
        kept = (self._bpe.sot_token_id, *ids[:room], self._bpe.eot_token_id)
        return Encoding(text, kept, tuple(starts[:room]), tuple(ends[:room]))

    def _spell_uncached(self, word: str) -> Encoding:
        """Return the ids of a word, without start and end, and the characters of the word that each covers."""
        # Byte-level encoding: every letter of a BPE token stands for one byte, and a character is one to four.
        characters = [i for i, letter in enumerate(word) for _ in letter.encode()]
        pieces = self._bpe.bpe("".join(self._bpe.byte_encoder[byte] for byte in word.encode())).split(" ")
        offsets = [0, *accumulate(len(piece.removesuffix("</w>")) for piece in pieces)]
        starts = tuple(characters[offset] for offset in offsets[:-1])
        ends = tuple(characters[offset - 1] + 1 for offset in offsets[1:])
        return Encoding(word, tuple(self._bpe.encoder[piece] for piece in pieces), starts, ends)
