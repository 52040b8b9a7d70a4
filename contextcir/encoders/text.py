"""Captions to token ids, and character spans of a caption to the positions of its tokens."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from open_clip.tokenizer import SimpleTokenizer
from torch import Tensor

from contextcir import assets
from contextcir.encoders.features import TokenBatch

CACHED_CAPTIONS = 65_536
PAD = 0  # what open_clip pads with; also the id of the token "!", so padding is never recognised by its id


class Encoding(NamedTuple):
    """A cleaned ``text``; its ``ids`` with start and end; characters ``[starts[i], ends[i])`` make ``ids[i + 1]``."""

    text: str
    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]


def open_clip_name(model: str) -> str:
    """What open_clip calls `model`: the name of the embedded model becomes the folder that it is unpacked to.

    Raises ValueError for a name that open_clip does not know, and FileNotFoundError for a folder that is not there.
    """
    name = f"local-dir:{assets.unpack()}" if model == assets.EMBEDDED else model
    if name.startswith("local-dir:"):
        config = Path(name.removeprefix("local-dir:")) / "open_clip_config.json"
        if not config.is_file():
            raise FileNotFoundError(f"no file {config} (needed by --model.backbone.model={model})")
    elif ":" not in name and open_clip.get_model_config(name) is None:
        close = get_close_matches(name, [assets.EMBEDDED, *open_clip.list_models()], n=5, cutoff=0.5)
        raise ValueError(f"no model '{name}' (--model.backbone.model); close to it: {', '.join(close) or 'none'}")
    return name


class Tokenizer:
    """CLIP's byte-pair encoding with character-exact alignment.

    A caption is cleaned first (markup entities, white space, lower case; `clean`), and all spans refer to the cleaned
    text. Blank captions become [start, end]. Longer ones than the model's context are cut, with the end token last; so
    are captions that spell out the end token.

    Raises ValueError for models with another kind of tokenizer.
    """

    def __init__(self, model: str = "ViT-B-32") -> None:
        self.model = model
        name = open_clip_name(model)
        config = open_clip.get_model_config(name) or {}
        # Asked before open_clip builds it, which would try to download another kind of tokenizer.
        foreign = (config.get("text_cfg") or {}).get("hf_tokenizer_name") or "siglip" in name.lower()
        bpe = None if foreign else open_clip.get_tokenizer(name)
        if not isinstance(bpe, SimpleTokenizer) or bpe.reduction_fn is not None:
            raise ValueError(
                f"model '{model}' has no CLIP byte-pair tokenizer, which is needed to find phrases in "
                "captions: choose a CLIP model such as ViT-B-32 with --model.backbone.model"
            )
        self._bpe = bpe
        self.context_length = int(bpe.context_length)
        self._encode = lru_cache(CACHED_CAPTIONS)(self._encode_uncached)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[str]]:
        return Tokenizer, (self.model,)  # a cache can't be pickled, and needn't travel

    def clean(self, caption: str) -> str:
        """The caption as the encoder sees it; spans of phrases are counted in this text."""
        return self._bpe.clean_fn(caption)

    def __call__(self, captions: Sequence[str]) -> TokenBatch:
        """Token ids (B, T) and their validity, T being the longest of these captions (2 where there are none)."""
        return self._padded([encoding.ids for encoding in self._encode_all(captions)])

    def span_tokens(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> Tensor:
        """Mask (P, T) of the tokens that overlap each phrase, on the device of `spans`; T as for the captions.

        ``owner`` (P,) row of the caption, ``spans`` (P, 2) characters ``[start, end)`` of the cleaned caption. The row
        of a phrase that was cut away with the end of a long caption is all false. Raises ValueError for a span that is
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
        """The P phrases as texts of their own. Raises ValueError for a span that is empty or not inside its caption."""
        texts = []
        for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
            self._check(captions[row], start, end)
            texts.append(self._encode(captions[row]).text[start:end])
        return texts

    def encode_isolated(self, captions: Sequence[str], owner: Tensor, spans: Tensor) -> TokenBatch:
        """What calling this with the `isolated` phrases gives, (P, T), but many times faster.

        A phrase of whole words has the tokens that it has in its caption, which was encoded already; the tokenizer's
        own cleaning would find nothing left to clean in it.
        """
        rows = []
        for row, (start, end) in zip(owner.tolist(), spans.tolist(), strict=True):
            self._check(captions[row], start, end)
            encoding = self._encode(captions[row])
            inner = self._whole_words(encoding, start, end)
            rows.append(self._encode(encoding.text[start:end]).ids if inner is None else inner)
        return self._padded(rows)

    @staticmethod
    def content(tokens: TokenBatch) -> Tensor:
        """Mask (B, T) of the valid tokens without the start and end of text."""
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
        """Ids of the text ``[start, end)`` if it begins and ends where words and tokens do, and was not cut away."""
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
    def _padded(encoded: Sequence[tuple[int, ...]]) -> TokenBatch:
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
        ids, starts, ends = [], [], []
        for match in self._bpe.pat.finditer(text):
            # Byte-level encoding: every letter of a BPE token stands for one byte, a character is one to four of them.
            characters = [i for i, letter in enumerate(match.group(), match.start()) for _ in letter.encode()]
            spelled = "".join(self._bpe.byte_encoder[byte] for byte in match.group().encode())
            pieces = self._bpe.bpe(spelled).split(" ")
            offsets = [0, *accumulate(len(piece.removesuffix("</w>")) for piece in pieces)]
            ids += [self._bpe.encoder[piece] for piece in pieces]
            starts += [characters[offset] for offset in offsets[:-1]]
            ends += [characters[offset - 1] + 1 for offset in offsets[1:]]
        # Nothing after the first end token is seen by a causal tower that is read there.
        room = self.context_length - 2
        if self._bpe.eot_token_id in ids:
            room = min(room, ids.index(self._bpe.eot_token_id))
        kept = (self._bpe.sot_token_id, *ids[:room], self._bpe.eot_token_id)
        return Encoding(text, kept, tuple(starts[:room]), tuple(ends[:room]))
