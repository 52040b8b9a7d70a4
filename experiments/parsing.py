"""jsonargparse as this project needs it: strict YAML, `base` in configs, null at any depth, no empty paths."""

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PosixPath
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace, _typehints
from jsonargparse._util import import_object
from jsonargparse.typing import register_type

from experiments.bases import BASE
from experiments.yaml_files import built, check

# The text of a config that is being loaded: its `base` has been followed, and the parser must not see it.
_config: ContextVar[str | None] = ContextVar("config", default=None)
_PLAIN = re.compile(r"[\w./+-]{0,100}", re.ASCII)  # words, numbers and paths need no check


@contextmanager
def as_config(text: str) -> Iterator[None]:
    """Load a text as a whole config."""
    mark = _config.set(text)
    try:
        yield
    finally:
        _config.reset(mark)


def _strict(load: Callable[[str], Any]) -> Callable[[str], Any]:
    def strict(text: str) -> Any:
        if not _PLAIN.fullmatch(text):
            check(text)
        value = built(lambda: load(text))
        if isinstance(value, dict) and text == _config.get():
            value.pop(BASE, None)
        return value

    return strict


def _with_relative_paths(text: str) -> Any:
    from jsonargparse._optionals import get_omegaconf_loader  # it has no public name

    return get_omegaconf_loader("omegaconf+")(text)


_adapt_class = _typehints.adapt_class_type


def _adapt_nested(value: Any, *rest: Any, **options: Any) -> Any:
    """Hand a value on to the parser of a class as it was typed.

    jsonargparse reads the value of ``--a.b.c=null`` before it knows what ``c`` is, and then gives the parser of ``a.b``
    Python's word for it, the text "None".
    """
    inner = value.get("init_args") if isinstance(value, Namespace) else None
    if isinstance(inner, _typehints.NestedArg) and not isinstance(inner.val, str):
        text = yaml.safe_dump(inner.val, default_flow_style=True, width=float("inf"), allow_unicode=True)
        value["init_args"] = inner._replace(val=text.removesuffix("...\n").strip())
    return _adapt_class(value, *rest, **options)


_discard = _typehints.discard_init_args_on_class_path_change


def _discard_defaults(parser: Any, before: Any, value: Any) -> None:
    """Where a class takes the place of another, leave out what the old one had by default, then what the new one lacks.

    jsonargparse hands on every value that the new class accepts. Nobody asked for a default of the old class, and the
    new one has its own: a Combiner in the place of a CrossAttentionFusion would train without its dropout.
    """
    settings = before.get("init_args") if before else None
    if isinstance(settings, dict | Namespace) and before["class_path"] != value["class_path"]:
        for name, default in _defaults(before["class_path"]).items():
            if name in settings and _same(settings[name], default):
                settings.pop(name)
    _discard(parser, before, value)


def _defaults(class_path: str) -> dict[str, Any]:
    """Return the defaults of a class's arguments, those of its base classes among them."""
    kind = import_object(class_path)
    found: dict[str, Any] = {}
    for each in reversed(kind.__mro__ if isinstance(kind, type) else ()):
        for name, parameter in inspect.signature(each.__init__).parameters.items():
            if parameter.default is not parameter.empty:
                found[name] = parameter.default
    return found


def _same(value: Any, default: Any) -> bool:
    if isinstance(value, list) and isinstance(default, tuple):
        return value == list(default)
    return type(value) is type(default) and value == default


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError(f"Expected a path. Got value: {value}")
    return Path(value)


def prepare() -> None:
    """Change jsonargparse for this process; twice is as good as once."""
    faults = (yaml.YAMLError,)
    jsonargparse.set_loader("yaml", _strict(_original), exceptions=faults)
    jsonargparse.set_loader("omegaconf+", _strict(_with_relative_paths), exceptions=faults)
    for kind in (Path, PosixPath):
        register_type(kind, str, _path, type_check=isinstance)
    _typehints.adapt_class_type = _adapt_nested
    _typehints.discard_init_args_on_class_path_change = _discard_defaults


_original = jsonargparse.get_loader("yaml")
