"""Every rule for settings passes what it names, and refuses what Python would let through."""

import math

import pytest

from contextcir import checks
from contextcir.errors import InputError, one_line, printable, shown

NO_NUMBERS = [math.nan, math.inf, -math.inf, True, False, None, "1", [1], 10**400]
RULES = [
    (checks.finite, (), [0, -3, 2.5], []),
    (checks.positive, (), [1, 1e-30], [0, -1, -0.0]),
    (checks.not_negative, (), [0, 0.0, 3], [-1e-9]),
    (checks.between, (0, 1), [0, 1, 0.5], [-0.1, 1.1]),
    (checks.fraction, (), [0, 0.999], [1, 1.0, -0.1]),
]


@pytest.mark.parametrize(("rule", "limits", "good", "bad"), RULES)
def test_numbers(rule, limits: tuple, good: list, bad: list) -> None:
    for value in good:
        assert rule(value, *limits, "model.a") == value
    for value in [*bad, *NO_NUMBERS]:
        with pytest.raises(InputError, match=r"^expected a .*number.*, got .* \(model\.a\)$"):
            rule(value, *limits, "model.a")


def test_whole_numbers_and_words() -> None:
    assert checks.whole(3, 1, "a") == 3 and checks.whole(3, 1, "a", most=3) == 3
    for value in [0, 4, 2.0, *NO_NUMBERS]:
        with pytest.raises(InputError, match="expected a whole number from 1 to 3, got"):
            checks.whole(value, 1, "a", most=3)
    assert checks.one_of("x", ["x", "y"], "a") == "x"
    with pytest.raises(InputError, match=r"expected one of x, y, got 'z' \(a\)"):
        checks.one_of("z", ["x", "y"], "a")


def test_data_in_messages_can_not_break_the_line() -> None:
    assert printable("a b\n\x1b[31m\u202e\ud800é\u2028") == r"a b\n\x1b[31m\u202e\ud800é\u2028"
    assert shown("x" * 100) == "'" + "x" * 56 + "..."
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert shown(nested) == "<list>" and shown(10**5000) == "<int>"
    assert one_line("a\nb") == "a b"
    long = one_line("file.json: " + "x" * 1000 + " (--data.root)")
    assert len(long) == 300 and long.startswith("file.json: xxx") and long.endswith("xxx (--data.root)")
