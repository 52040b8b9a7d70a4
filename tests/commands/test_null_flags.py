"""A flag's value arrives at any depth as it would at the first: null, lists and mappings with nulls."""

from typing import Any

import pytest

from experiments.arguments import Parser


class Leaf:
    """The innermost of four classes."""

    def __init__(
        self,
        text: str | None = "x",
        number: int | None = 3,
        names: list[str | None] = ["a"],  # noqa: B006  (never changed)
        table: dict[str, str | None] = {},  # noqa: B006
        anything: Any = "q",
    ) -> None: ...


class Inner:
    """Has a leaf."""

    def __init__(self, leaf: Leaf, text: str | None = "x", leaves: list[Leaf] | None = None) -> None: ...


class Outer:
    """Has an inner one."""

    def __init__(self, inner: Inner, text: str | None = "x") -> None: ...


def top(outer: Outer, text: str | None = "x") -> None:
    """Take an outer one."""


@pytest.fixture(params=["yaml", "omegaconf+"])
def parser(request: pytest.FixtureRequest) -> Parser:
    parser = Parser(parser_mode=request.param)
    parser.add_function_arguments(top)
    return parser


LEAF = "outer.inner.leaf"


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("text=null", None),
        ("outer.text=null", None),
        ("outer.inner.text=null", None),
        (f"{LEAF}.text=null", None),
        (f"{LEAF}.text=~", None),
        ("outer.init_args.inner.init_args.leaf.init_args.text=null", None),
        (f"{LEAF}.number=null", None),
        (f"{LEAF}.names=[null, b]", [None, "b"]),
        (f"{LEAF}.table={{a: null}}", {"a": None}),
        (f"{LEAF}.table.a=null", {"a": None}),
        (f"{LEAF}.anything=null", None),
        (f"{LEAF}.text=None", "None"),  # the word
        (f"{LEAF}.text=é: [", "é: ["),
        (f"{LEAF}.names=['1', 'a: b']", ["1", "a: b"]),
    ],
)
def test_a_value_is_the_same_at_every_depth(flag: str, value: object, parser: Parser) -> None:
    here = f"{__name__}."
    classes = [f"--outer={here}Outer", f"--outer.inner={here}Inner", f"--{LEAF}={here}Leaf"]
    settings: Any = parser.parse_args([*classes, f"--{flag}"])
    keys = flag.partition("=")[0].replace("init_args.", "").replace("table.a", "table").split(".")
    for key in keys[:-1]:
        settings = settings[key].init_args
    assert settings[keys[-1]] == value


def test_null_reaches_an_item_of_a_list_of_classes(parser: Parser) -> None:
    here = f"{__name__}."
    classes = [f"--outer={here}Outer", f"--outer.inner={here}Inner", f"--{LEAF}={here}Leaf"]
    more = [f"--outer.inner.leaves+={here}Leaf", "--outer.inner.leaves.text=null"]
    settings = parser.parse_args([*classes, *more])
    assert settings.outer.init_args.inner.init_args.leaves[0].init_args.text is None
