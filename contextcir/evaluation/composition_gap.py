"""The Composition Gap: how much of what a composed query finds neither of its sides finds alone."""

from collections.abc import Mapping


def composition_gap(composed: float, image_only: float, text_only: float) -> float | None:
    """Return 1 - max(image_only, text_only) / composed, of figures in any one unit (CIRCUS, arXiv 2605.14787).

    1 where either side alone finds nothing, 0 where the better one finds as much as both, negative where it finds more.
    None where the composed query finds nothing: there is nothing to take a share of.
    """
    return None if composed == 0 else 1 - max(image_only, text_only) / composed


def gap_of_rows(rows: Mapping[str, float]) -> float | None:
    """Return the gap of figures by row; None without the rows of both sides too."""
    known = [rows.get(name) for name in ("composed", "image_only", "text_only")]
    composed, image_only, text_only = known
    if composed is None or image_only is None or text_only is None:
        return None
    return composition_gap(composed, image_only, text_only)
