"""Whether a run reads the features of images from disk, and where they are."""

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from contextcir.encoders.frozen import SETTING, StoredImages
from contextcir.errors import InputError, shown

AUTO = "auto"


class FeatureSetting:
    """What a user says about stored features.

    Args:
        given: None for no features, ``auto``, or a folder.

    Raises:
        InputError: for anything else.
    """

    def __init__(self, given: str | None) -> None:
        if given is not None and not (isinstance(given, str | Path) and str(given).strip()):
            raise InputError(f"expected null, auto or a folder, got {shown(given)}", setting=SETTING)
        self.given = None if given is None else str(given)
        self._told = False

    def of(self, model: Any) -> StoredImages | None:
        """Return the stored features of a model, which are made if it has none; None if its images are encoded.

        Raises:
            InputError: if there is a folder for them, but the image tower is trained.
        """
        backbone = getattr(model, "backbone", None)
        if self.given is None or backbone is None:
            return None
        if any(weight.requires_grad for weight in backbone.clip.visual.parameters()):
            told = "features of images can be stored only if the image tower is frozen"
            if self.given != AUTO:
                problem = f"{told}: take auto or null, or set model.backbone.trainable_image_blocks to 0"
                raise InputError(problem, setting=SETTING)
            if not self._told:
                rank_zero_info(f"{SETTING} auto: the image tower is trained, so images are encoded in every step")
            self._told = True
            return None
        if backbone.stored is None:
            folder = getattr(backbone, "features", usual_folder()) if self.given == AUTO else Path(self.given)
            backbone.stored = StoredImages(folder)
        return backbone.stored


def usual_folder() -> Path:
    """Return the folder that CIR_FEATURES names, else ``features`` among the runs."""
    named = os.environ.get("CIR_FEATURES")
    return Path(named) if named else Path(os.environ.get("CIR_RUNS") or "runs") / "features"
