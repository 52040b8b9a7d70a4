"""Images as data URLs."""

import io
import warnings
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png"}


@dataclass(frozen=True)
class ImageLimits:
    """How images are sent: as they are on disk where they are small JPEG or PNG files, else scaled down as JPEG.

    Args:
        longest_side: Pixels; larger images are scaled down.
        largest_file: Bytes; larger files are encoded anew.
        quality: Of JPEG, where one is written.
        tokens: The most that one image of this size costs in tokens, for budgets and rate limits before the answer.
    """

    longest_side: int = 1024
    largest_file: int = 1_000_000
    quality: int = 90
    tokens: int = 2000

    def __post_init__(self) -> None:
        if self.longest_side < 1 or self.largest_file < 1 or not 1 <= self.quality <= 95 or self.tokens < 0:
            raise ValueError(f"images need sizes of at least 1 and a quality from 1 to 95, got {self}")

    def data_url(self, path: Path) -> str:
        """Return an image file as a data URL.

        Raises:
            ValueError: if it is no image that can be read, in one line that names the file.
        """
        try:
            content = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    as_it_is = image.format in KINDS and len(content) <= self.largest_file
                    if as_it_is and max(image.size) <= self.longest_side:
                        return _url(KINDS[str(image.format)], content)
                    return _url("image/jpeg", self._encode(image))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            said = str(error).partition("\n")[0].replace(str(path), path.name)
            raise ValueError(f"{path}: no image that can be read: {said}") from None
        except Image.DecompressionBombWarning:
            raise ValueError(f"{path}: the image has too many pixels") from None

    def _encode(self, image: Image.Image) -> bytes:
        image.draft("RGB", (self.longest_side, self.longest_side))  # JPEG decodes faster at a half, quarter, eighth
        upright = ImageOps.exif_transpose(image)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            ground = Image.new("RGBA", upright.size, "white")
            upright = Image.alpha_composite(ground, upright.convert("RGBA"))
        upright = upright.convert("RGB")
        upright.thumbnail((self.longest_side, self.longest_side))
        buffer = io.BytesIO()
        upright.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


def _url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{b64encode(content).decode()}"


def decoded(url: str) -> Image.Image:
    """Return the image of a data URL of ours."""
    return Image.open(io.BytesIO(b64decode(url.partition(",")[2]))).convert("RGB")
