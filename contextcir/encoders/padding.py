"""Texts padded to a few sizes: a compiled tower is compiled anew for sizes that it has not met."""

from torch import Tensor
from torch.nn import functional

from contextcir.encoders.features import PseudoWords, TextFeatures

LEAST = 8  # rows
OCTAVE = 4  # sizes between a power of two and the next: at most a quarter of the rows are padding
TOKENS = 8  # lengths are multiples of this


class FewSizes:
    """Rounds the number and the length of texts up, and cuts what was computed of them to what was asked for.

    Rows are rounded to four sizes between two powers of two, lengths to multiples of eight. A causal tower that is read
    at the end token gives the same for a padded text.

    Args:
        most: tokens of the longest text.
    """

    def __init__(self, most: int) -> None:
        self.most = most

    def rows(self, count: int) -> int:
        """Return the size for so many texts."""
        step = max(LEAST, 1 << max(0, (count - 1).bit_length() - 1)) // OCTAVE
        return max(LEAST, -(-count // step) * step)

    def length(self, tokens: int) -> int:
        """Return the size for texts of so many tokens."""
        return min(self.most, -(-tokens // TOKENS) * TOKENS)

    def pad(self, ids: Tensor, valid: Tensor, words: PseudoWords | None) -> tuple[Tensor, Tensor, PseudoWords | None]:
        """Return token ids (B, T), which of them are valid (B, T), and pseudo-words, at their sizes."""
        below, right = self.rows(len(ids)) - len(ids), self.length(ids.shape[1]) - ids.shape[1]
        if words is not None:
            place = functional.pad(words.place, (0, right, 0, below))
            words = PseudoWords(place, functional.pad(words.vectors, (0, 0, 0, below)))
        ids, valid = (functional.pad(part, (0, right, 0, below)) for part in (ids, valid))
        return ids, valid, words

    @staticmethod
    def cut(features: TextFeatures, rows: int, length: int) -> TextFeatures:
        """Return the features of the first rows and tokens."""
        tokens, valid = features.tokens[:rows, :length], features.valid[:rows, :length]
        return TextFeatures(tokens, valid, features.embedding[:rows])
