"""Pseudo-words that are optimised for one image each: what SEARLE distils into phi."""

import torch
from torch import Tensor
from torch.nn import functional

from contextcir.devices import to_device
from contextcir.encoders.pseudo_words import prompt_of
from contextcir.encoders.text import Tokenizer
from contextcir.files import stable_hash
from contextcir.fusion.inversion import TextualInversion

# Before the pseudo-word, and after it. SEARLE takes 24 of PALAVRA, of photos, illustrations, sketches and diagrams.
TEMPLATES = (
    ("a photo of", ""),
    ("a picture of", ""),
    ("an image of", ""),
    ("a photo of a", ""),
    ("this photo shows a", ""),
    ("", ""),
    ("there is a", "in this photo"),
    ("", "in a photo"),
)
SPREAD = 0.02  # standard deviation of a word to begin with, about that of CLIP's own token embeddings
RATE, DECAY = 2e-2, 0.01  # of AdamW
MEMORY = 3.5  # the running mean forgets this over its length in all steps: 1 % a step at 350


class OptimisedWords:
    """Finds for an image the pseudo-word w whose texts come nearest to it: 1 - cos(T(template of w), i) is minimised.

    Baldrati et al., Zero-Shot Composed Image Retrieval with Textual Inversion (ICCV 2023), optimisation-based textual
    inversion; github.com/miccunifi/SEARLE, src/oti_inversion.py: AdamW at 2e-2 with a weight decay of 0.01, 350 steps,
    and the running mean of the word, of decay 0.99, is the result; with fewer steps the mean forgets sooner, in
    proportion. Left out are its regularisation by concepts and their sentences, and most of its templates; templates
    are taken in turn, not drawn.

    A word follows from the image's embedding and id and the towers, whatever other images it is optimised with. Words
    are kept in memory, by the id of their image; the GPU is waited for where an image comes for the first time.

    Args:
        steps: of the optimisation.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._known: dict[int, Tensor] = {}

    def of(self, fusion: TextualInversion, tokenizer: Tokenizer, images: Tensor, ids: Tensor) -> Tensor:
        """Return the words (U, D) of images by their embeddings (U, E) and ids (U,), without gradients."""
        numbers = ids.tolist()
        if not numbers:
            return images.new_zeros(0, fusion.phi.outputs)
        missing = [row for row, number in enumerate(numbers) if number not in self._known]
        if missing:
            chosen = images[to_device(torch.tensor(missing), images.device)]
            found = self._optimise(fusion, tokenizer, chosen, [numbers[row] for row in missing])
            self._known |= {numbers[row]: word for row, word in zip(missing, found, strict=True)}
        return to_device(torch.stack([self._known[number] for number in numbers]), images.device)

    def _optimise(self, fusion: TextualInversion, tokenizer: Tokenizer, images: Tensor, ids: list[int]) -> Tensor:
        hashes = [stable_hash(f"pseudo-word of image {number}") for number in ids]
        first = [torch.randn(fusion.phi.outputs, generator=torch.Generator().manual_seed(hash_)) for hash_ in hashes]
        word = to_device(SPREAD * torch.stack(first), images.device).requires_grad_()  # (M, D)
        mean = word.detach().clone()
        optimizer = torch.optim.AdamW([word], lr=RATE, weight_decay=DECAY)
        goal = functional.normalize(images.detach().float(), dim=-1)
        with torch.enable_grad(), torch.autocast(images.device.type, enabled=False):
            for step in range(self.steps):
                texts = [TEMPLATES[(hash_ + step) % len(TEMPLATES)] for hash_ in hashes]
                text = fusion.fill_gaps(prompt_of(tokenizer, texts), word)
                # The sum, not the mean: each word has the gradient that it has alone.
                loss = (1 - functional.cosine_similarity(text.float(), goal, dim=-1)).sum()
                (word.grad,) = torch.autograd.grad(loss, [word])
                optimizer.step()
                mean = mean.lerp(word.detach(), min(1.0, MEMORY / self.steps))
        return mean.cpu()
