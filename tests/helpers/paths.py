"""Where things lie in the checkout."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
CONFIGS = PROJECT / "experiments" / "configs"
STUDIES = PROJECT / "experiments" / "studies"
SWEEPS = PROJECT / "experiments" / "sweeps"
