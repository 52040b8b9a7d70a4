"""Programs of Debian's packages that tests need: CI installs them, since its machine may be a new one."""

import os
import shutil
import subprocess
from collections.abc import Sequence


class Unavailable(RuntimeError):
    """A program can't be had on this machine; says why."""


def install_packages(packages: Sequence[str], absent: str) -> None:
    """Install Debian's packages, as root.

    Args:
        packages: their names.
        absent: what is missing, for messages.

    Raises:
        Unavailable: where that can't be done.
    """
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"{absent}, and only root on Debian or Ubuntu can install it here: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", *arguments], env=environment, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Unavailable(f"{absent}, and apt-get could not: {(done.stderr.strip() or 'no reason').splitlines()[-1]}")
