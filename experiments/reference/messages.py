"""Every message of an error of this project, by its constant words, with where it is raised and what to change."""

import ast
import builtins
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from experiments.causes import BUGS
from experiments.reference.texts import DEPTH, GAP, Called, Place, Sources, has_parameters, plain

BASES = ("InputError", "ValueError", "OSError", "RuntimeError", "SystemExit", "Exception", "YAMLError")
# Steps of a program that are no messages.
INTERNAL = ("Stopped", "_Stopped", "QueueFull", "HTTPException", "ArgumentMistake", "ReadError")
_WORD = re.compile(r"[^\W\d_]{2,}")


class Message(NamedTuple):
    """What an error says: ``text`` has a gap where the words depend on the case.

    ``module`` raises it; ``settings`` are the arguments that it names, as ``model.fusion.heads``.
    """

    text: str
    module: str
    settings: tuple[str, ...] = ()


@dataclass(eq=False)
class _Site:
    """A call that makes an error: its texts, with the parameters of its function marked, and where it stands."""

    texts: Sequence[str]
    settings: Sequence[str]
    place: Place
    called: bool = False  # its function
    left: set[str] = field(default_factory=set)  # texts to which some call of its function adds no words

    def messages(self) -> Iterator[Message]:
        """Yield the messages that are whole: to the others, calls of the function have added words."""
        settings = tuple(sorted({plain(text) for text in self.settings if GAP not in plain(text)}))
        for text in self.texts:
            whole = not (has_parameters(text) and self.called) or text in self.left
            words = len(_WORD.findall(plain(text)))
            if whole and words > plain(text).startswith(GAP):  # of an error around another one, one word is no help
                yield Message(plain(text), self.place.module.path, settings)


def messages(sources: Sources | None = None) -> list[Message]:
    """Return the messages of all errors that the packages raise, by module and text.

    A function that makes an error of its parameter, as the checks of numbers do, counts where it is called with words.
    """
    sources = sources or Sources()
    kinds = error_classes(sources)
    calls = [call for module in sources.modules.values() for call in module.calls]
    sites = [_site(sources, call, place) for call, place in calls if _is_error(sources, call, place, kinds)]
    found: list[Message] = []
    for _ in range(DEPTH):  # such a function may be called by another one
        makers: dict[int, list[_Site]] = {}
        for site in sites:
            if site.place.functions and any(map(has_parameters, site.texts)):
                makers.setdefault(id(site.place.functions[-1]), []).append(site)
        more = [
            _filled(sources, site, call, called, place)
            for call, place in calls
            if (called := sources.called(call, place)) is not None
            for site in makers.get(id(called.function), ())
        ]
        found += [message for site in sites for message in site.messages()]
        sites = more
    return sorted(_by_text(found), key=lambda message: (message.module, message.text.lower()))


def error_classes(sources: Sources) -> set[str]:
    """Return the names of the classes whose text a user may see: not those of bugs, nor of steps within a program."""
    bugs = {kind.__name__ for kind in BUGS}
    kinds = {
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, Exception | SystemExit) and name not in bugs
    } | {"YAMLError"}
    classes = [kind for module in sources.modules.values() for kind in module.classes]
    while more := {k.name for k in classes if kinds & {ast.unparse(b).split(".")[-1] for b in k.bases}} - kinds:
        kinds |= more
    return kinds - set(INTERNAL)


def beginning(text: str) -> str:
    """Return the first constant words of a message: up to its first gap that follows a word."""
    parts = text.split(GAP)
    return next((part.strip() for part in parts if _WORD.search(part)), "")


def _is_error(sources: Sources, call: ast.Call, place: Place, kinds: set[str]) -> bool:
    """Tell whether a call makes an error; a class of another kind may have the name of one."""
    name = _name(call)
    if name not in kinds:
        return False
    home = sources.modules.get(place.module.imports.get(name, (place.module.name,))[0])
    bases = [ast.unparse(base) for kind in home.classes if kind.name == name for base in kind.bases] if home else []
    return "NamedTuple" not in bases


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).split(".")[-1] if isinstance(call.func, ast.Name | ast.Attribute) else ""


def _site(sources: Sources, call: ast.Call, place: Place) -> _Site:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    first = call.args[0] if call.args and not isinstance(call.args[0], ast.Starred) else given.get("problem")
    texts = sources.texts(first, place) if first is not None else []
    if _name(call) == "Problem" and len(call.args) > 1:  # of data_modules: a rule, and what the field holds
        texts = [text + more for text in texts for more in sources.texts(call.args[1], place)]
    setting = sources.texts(given["setting"], place) if "setting" in given else []
    return _Site(texts, setting, place)


def _filled(sources: Sources, site: _Site, call: ast.Call, called: Called, place: Place) -> _Site:
    """Return a site where a function is called: its open texts, with the words that the call gives."""
    site.called = True
    texts = []
    for text in filter(has_parameters, site.texts):
        words = len(_WORD.findall(plain(text)))
        ways = [way for way in sources.filled(text, call, called, place) if len(_WORD.findall(plain(way))) > words]
        texts += ways
        if not ways:
            site.left.add(text)
    return _Site(texts, [way for text in site.settings for way in sources.filled(text, call, called, place)], place)


def _by_text(found: Iterable[Message]) -> list[Message]:
    """Return one message for each text of a module, with the settings of all its places."""
    joined: dict[tuple[str, str], set[str]] = {}
    for message in found:
        joined.setdefault((message.module, message.text), set()).update(message.settings)
    return [Message(text, module, tuple(sorted(settings))) for (module, text), settings in joined.items()]
