"""Files of the Hugging Face Hub: from the cache, else downloaded; without a network, told within seconds.

A file in the cache is taken as it is, so that a run needs no network once it has been there. Whether the server
answers is asked once before a download: its own client would try again and again, for minutes.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from contextcir.errors import InputError, one_line
from contextcir.network import unreachable

PROBE = 5.0  # seconds in which the server has to answer


def hub_file(repository: str, names: Sequence[str], wanted: str, way_out: str, setting: str) -> Path:
    """Return the first of some files that a repository has.

    Args:
        repository: ``OWNER/NAME`` on the Hugging Face Hub.
        names: of the files, the preferred one first.
        wanted: what they are, for the message.
        way_out: what to give in their place, for the message.
        setting: dotted path of the argument that names them.

    Raises:
        InputError: if none is in the cache and none can be downloaded.
    """
    import huggingface_hub as hub  # here: it takes time to import, and most models need no download
    from huggingface_hub import constants

    for name in names:
        cached = hub.try_to_load_from_cache(repository, name)
        if isinstance(cached, str) and os.path.exists(cached):
            return Path(cached)
    if constants.HF_HUB_OFFLINE:
        reason: str | None = "HF_HUB_OFFLINE is set"
    else:
        silent = unreachable([constants.ENDPOINT], PROBE)
        reason = None if silent is None else f"{silent[0]} can't be reached ({silent[1]})"
    if reason is None:
        reason = "their repository has no such file"
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
        for name in names:
            try:
                return Path(hub.hf_hub_download(repository, name, etag_timeout=PROBE))
            except hub.errors.EntryNotFoundError:
                continue
            except Exception as error:  # the client's, its transport's, and the disk's
                reason = one_line(str(error), 60)
                break
    raise InputError(
        f"{wanted} are not in {constants.HF_HUB_CACHE}, and {one_line(reason or '', 80)}: {way_out}, or run "
        f"`hf download {repository}` with a network",
        setting=setting,
    )
