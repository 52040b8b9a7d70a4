"""Stanza's English models on disk: which files they are, whether these are whole, and how they come there.

Stanza would look for its models when they are loaded, in every worker process, and end in errors of its own. Here they
are looked for once, before any work, and loaded only if each file has the checksum that Stanza lists.
"""

import hashlib
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from contextcir.errors import InputError, MissingFileError, shown
from contextcir.files import Inside, ordinary_file, parse_json, read_text
from contextcir.network import unreachable

PROCESSORS = ("tokenize", "mwt", "pos", "constituency")  # in the order in which they run
LIST = "resources.json"
HUB = "https://huggingface.co"
READ = 1 << 20  # bytes at a time


class ModelFile(NamedTuple):
    """A file of the list: its name below the folder, and the checksums that are right; () where none is listed."""

    name: str
    checksums: tuple[str, ...]


class StanzaModels:
    """The models of one of Stanza's packages, in a folder.

    Args:
        folder: of the models; None for that of the environment's STANZA_RESOURCES_DIR, else Stanza's own.
        package: set of models by its name in the folder's ``resources.json``.
    """

    def __init__(self, folder: str | None, package: str) -> None:
        self._folder = folder
        self.package = package

    @cached_property
    def folder(self) -> Path:
        """Where the models are, or will be."""
        from stanza.resources.common import DEFAULT_MODEL_DIR  # imports torch

        # Stanza itself reads the variable at import only; one that is empty counts as not set
        named = self._folder or os.environ.get("STANZA_RESOURCES_DIR") or DEFAULT_MODEL_DIR or "~/stanza_resources"
        return Path(named).expanduser()

    def made_ready(self) -> str:
        """Return a digest of all files, each of which is there and whole; those that are not are downloaded.

        Raises:
            MissingFileError: if files are missing or damaged, and can't be downloaded.
            InputError: if the folder's list is damaged, or has no such package.
        """
        try:
            digest, wrong = self._digest()
        except MissingFileError:
            digest, wrong = "", f"no {LIST}"
        if wrong:
            self._download(wrong)
            digest, wrong = self._digest()
            if wrong:
                problem = f"{wrong} in {self.folder}, and Stanza's download did not bring it"
                raise MissingFileError(problem, setting="parser.model_dir")
        return digest

    def processors(self) -> dict[str, str]:
        """Return the processors of the package and their models.

        Raises:
            MissingFileError: if there is no list.
            InputError: if the list is damaged, or has no such package.
        """
        packages = self._dictionary(self._listed(), "packages")
        if self.package not in packages:
            known = ", ".join(map(str, packages))[:120]
            raise InputError(
                f"no package {shown(self.package)} in {self.folder / LIST}, but {known}", setting="parser.package"
            )
        package = self._dictionary(packages, self.package)
        return {processor: str(package[processor]) for processor in PROCESSORS if processor in package}

    def files(self) -> list[ModelFile]:
        """Return the files of the models, and of the word vectors and language models below them."""
        listed = self._listed()
        needed = dict.fromkeys(self.processors().items())
        for kind, name in list(needed):
            below = self._dictionary(listed, kind, name).get("dependencies", ())
            try:
                needed |= dict.fromkeys((part["model"], part["package"]) for part in below)
            except (TypeError, KeyError):
                raise self._damaged() from None
        return [self._file(listed, kind, name) for kind, name in needed]

    def reason(self, error: Exception, device: str) -> InputError:
        """Return the error for models that are whole, and can't be loaded."""
        problem = f"Stanza can't load its models on {shown(device)} ({type(error).__name__}: {shown(str(error))})"
        return InputError(problem, file=self.folder, setting="parser.device")

    def _file(self, listed: Mapping[str, Any], kind: object, name: object) -> ModelFile:
        about = self._dictionary(listed, kind, name)
        sums = tuple(str(about[field]) for field in ("md5", "alternate_md5") if about.get(field))
        return ModelFile(f"en/{kind}/{name}.pt", sums)

    def _digest(self) -> tuple[str, str]:
        """Return a digest of all files, or what is wrong with the first one that is not as it should be."""
        digest, inside = hashlib.sha256(), Inside(self.folder, links=True)
        for name, checksums in self.files():
            path = inside.path(name)
            try:
                ordinary_file(path, "parser.model_dir")
            except MissingFileError:
                return "", f"no {name}"
            content, checksum = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while part := file.read(READ):
                    content.update(part)
                    checksum.update(part)
            if checksums and checksum.hexdigest() not in checksums:
                return "", f"damaged, or of another release, is {name}"
            digest.update(content.digest())
        return digest.hexdigest(), ""

    def _listed(self) -> Mapping[str, Any]:
        """Return what the folder's list has for English."""
        path = self.folder / LIST
        listed = parse_json(read_text(path, "parser.model_dir"), path, "parser.model_dir")
        return self._dictionary(listed, "en")

    def _dictionary(self, value: Any, *keys: Any) -> Mapping[Any, Any]:
        for key in keys:
            try:
                value = value[key]
            except (TypeError, KeyError, IndexError):
                raise self._damaged() from None
        if not isinstance(value, Mapping):
            raise self._damaged()
        return value

    def _damaged(self) -> InputError:
        problem = "is no list of Stanza's English models: delete it, and it is downloaded again"
        return InputError(problem, file=self.folder / LIST, setting="parser.model_dir")

    def _download(self, wrong: str) -> None:
        import stanza
        from stanza.resources.common import DEFAULT_RESOURCES_URL

        addresses = (DEFAULT_RESOURCES_URL, os.environ.get("HF_ENDPOINT") or HUB)
        silent = unreachable(address for address in addresses if "://" in address)
        if silent is not None:
            raise self._missing(wrong, f"{silent[0].split('/')[2]} does not answer ({shown(silent[1], 30)[1:-1]})")
        logging.getLogger("stanza").info(
            "downloading Stanza's English models (%s) to %s, once", self.package, self.folder
        )
        try:
            stanza.download("en", model_dir=str(self.folder), package=self.package, processors=",".join(PROCESSORS))
        except Exception as error:  # of the disk, the network, the hub, its HTTP client
            raise self._missing(
                wrong, f"the download failed ({shown(str(error) or type(error).__name__, 30)[1:-1]})"
            ) from None

    def _missing(self, wrong: str, why: str) -> MissingFileError:
        command = f"stanza.download('en', 'DIR', '{self.package}', '{','.join(PROCESSORS)}')"
        return MissingFileError(
            f"Stanza: {wrong} in {self.folder}; {why}; online, run "
            f'python -c "import stanza; {command}", and set STANZA_RESOURCES_DIR=DIR'
        )


@contextmanager
def weights_only() -> Iterator[None]:
    """Let `torch.load` read weights and nothing else, whatever its caller asks for.

    Stanza before 1.13 read a file that it could not read as weights once more, as a pickle, which runs code.
    """
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
