"""How a command line names things: settings by flags, the project's own YAML files by their bare names."""

import difflib
from pathlib import Path

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import ordinary_file


def flag(setting: str) -> str:
    """Return the flag of an argument: ``model.fusion.heads`` is ``--model.fusion.heads``."""
    return f"--{setting}"


def packaged(kind: str, name: str | Path, setting: str | None = None, beside: Path | None = None) -> Path:
    """Return a YAML file given by its path, or by its bare name among those that come with the project.

    Args:
        kind: the folder of the project's own files: ``configs``, ``studies`` or ``sweeps``. Files of its subfolders
            have names such as ``overlays/bf16``.
        name: a path, or a name with or without ``.yaml``.
        setting: the argument that gives it, for the message; None for a positional one.
        beside: folder that a path begins at; the current one by default.

    Raises:
        MissingFileError: if it is neither; the message has the closest names.
        InputError: if it is empty, or no ordinary file: a folder, a named pipe, a device.
    """
    if not str(name).strip() or str(name) in (".", "/"):
        given = "" if str(name) == "." else str(name)  # what a Path makes of an empty text
        raise InputError(f"expected a file, or one of the project's {kind}; got {shown(given)}", setting=setting)
    path = Path(beside or "", name)
    folder = Path(__file__).parent / kind
    own = {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}
    bare = Path(name).as_posix().removesuffix(".yaml")
    try:
        return ordinary_file(path, setting)
    except MissingFileError:
        pass
    except InputError:
        if bare not in own:  # a folder may have the name of a config
            raise
    if bare in own:
        return own[bare]
    close = difflib.get_close_matches(bare, own, n=3, cutoff=0.5)
    hint = f"close to it: {', '.join(close)}" if close else f"there are {', '.join(n for n in own if '/' not in n)}"
    problem = f"no file {shown(str(path), 100)[1:-1]}, and none of the project's {kind} has this name; {hint}"
    raise MissingFileError(problem, setting=setting)
