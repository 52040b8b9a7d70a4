"""Named groups of queries by lists of their ids, such as the validated queries of CIRCUS, as strata of a protocol."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from contextcir.errors import InputError, printable, shown
from contextcir.evaluation.protocol import WORD, Protocol
from contextcir.files import parse_json, read_text
from data_modules.reading.reader import user_path


class QuerySubsets:
    """Files of query ids, each of which becomes a stratum: every metric is repeated for its queries.

    A file is a JSON list of ids, those of every evaluated split, or a JSON object of such lists by split; splits that
    it does not name have no such stratum. Ids are numbers, or their digits in quotes.

    Args:
        files: by the name of the stratum, a word.
    """

    def __init__(self, files: Mapping[str, str] | None) -> None:
        self.files = dict(files or {})
        self._read: dict[str, Any] = {}
        for name in self.files:
            if not isinstance(name, str) or not WORD.fullmatch(name):
                problem = f"expected a word (letters, digits, _) as the name of a subset, got {shown(name)}"
                raise InputError(problem, setting="data.subsets")

    def applied(self, protocol: Protocol) -> Protocol:
        """Return the protocol with its strata and these.

        Raises:
            MissingFileError: if a file is missing.
            InputError: if it is something else, names an id that is no query of the split, or one twice.
        """
        if not self.files:
            return protocol
        place = {number: position for position, number in enumerate(protocol.query_ids)}
        strata = dict(protocol.strata)
        for name, given in self.files.items():
            path = user_path(given, "data.subsets")
            ids = self._ids(name, path, protocol.split)
            if ids is None:
                continue
            what = f"{protocol.benchmark} {protocol.split}"
            if name in strata:
                raise InputError(f"{what} has a group {name} already: choose another name", setting="data.subsets")
            unknown = [number for number in ids if number not in place]
            if unknown:
                problem = (
                    f"names {len(unknown):,} of {len(ids):,} ids that are no query of {what}, the first is {unknown[0]}"
                )
                raise InputError(problem, file=path, setting="data.subsets")
            if len(set(ids)) < len(ids):
                twice = next(number for number in ids if ids.count(number) > 1)
                raise InputError(f"names query {twice} twice", file=path, setting="data.subsets")
            strata[name] = tuple(sorted(place[number] for number in ids))
        return replace(protocol, strata=strata)

    def _ids(self, name: str, path: Path, split: str) -> list[int] | None:
        if name not in self._read:
            self._read[name] = parse_json(read_text(path, "data.subsets"), path)
        listed = self._read[name]
        if isinstance(listed, dict):
            listed = listed.get(split)
            if listed is None:
                return None
        if not isinstance(listed, list) or not listed:
            problem = f"expected a list of query ids, or an object of such lists by split, got {shown(listed)}"
            raise InputError(problem, file=path, setting="data.subsets")
        return [_number(entry, path) for entry in listed]


def _number(entry: Any, path: Path) -> int:
    if isinstance(entry, str) and re.fullmatch(r"[0-9]{1,18}", entry):
        return int(entry)
    if type(entry) is not int:
        raise InputError(
            f"expected the id of a query, a whole number, got {printable(shown(entry))}",
            file=path,
            setting="data.subsets",
        )
    return entry
