"""Pairs of images that existing sets of triplets have, for texts that are made anew."""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from contextcir.errors import InputError
from contextcir.synthesis.pairs import PairSource, image_path, pair_key
from contextcir.synthesis.records import Pair
from data_modules.cirr import CIRRReader
from data_modules.converters import Converter, HotelConverter, LaSCoConverter
from data_modules.manifest import ManifestReader

GROUP = 6  # images of a set, at most


class SetPairs(PairSource):
    """The pairs of a set, each once, in the order of its file.

    Args:
        source: what `Pair.source` is to say.
    """

    def __init__(self, source: str) -> None:
        self.source = source

    @abstractmethod
    def read(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        """Yield, for each triplet, where it stands, the paths of reference and target, and those of its image set."""

    def pairs(self) -> Iterator[Pair]:
        """Yield the pairs.

        Raises:
            FileNotFoundError, ValueError: if a file is missing, or something in it is wrong; the message names file,
                record and field.
        """
        known: set[str] = set()
        with _settings_of_pairs():
            for where, *paths, listed in self.read():
                reference, target = (image_path(path, where) for path in paths)
                members = tuple(image_path(path, where) for path in listed)
                key = pair_key(reference, target)
                if key not in known:
                    known.add(key)
                    yield Pair(key, reference, target, members, source=self.source)


class CIRRPairs(SetPairs):
    """CIRR, in its official layout or one of those in use; each pair has its six images that look alike.

    Image paths are those of CIRR's image lists: ``images`` of a synthesis is the folder that holds them (img_raw).

    Args:
        root: folder with the annotations.
        split: train or val; test1 has no targets.
        source: what `Pair.source` is to say.
    """

    def __init__(self, root: Path, split: str = "train", source: str = "cirr") -> None:
        super().__init__(source)
        self.reader = CIRRReader(root)
        self.split = split

    def read(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        pairs, paths = self.reader.read_pairs(self.split)
        for record, members in pairs:
            target = paths[str(record.target)]
            yield str(record.origin), paths[record.reference], target, tuple(paths[name] for name in members)


class ConvertedPairs(SetPairs):
    """Pairs from official files that this project turns into manifests.

    Args:
        source: what `Pair.source` is to say.
        skip_broken: leave out records that can't be read, and warn of how many by reason; else the first is an error.
    """

    def __init__(self, source: str, skip_broken: bool) -> None:
        super().__init__(source)
        self.skip_broken = skip_broken

    @abstractmethod
    def converter(self) -> Converter:
        """Return what reads their records."""

    def read(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        converter = self.converter()
        converted, broken = converter.read(self.skip_broken)
        for entry in converted:
            for record in entry.records:
                yield str(entry.origin), record["reference"], record["target"], ()
        if broken:
            reasons = ", ".join(f"{count:,}: {reason}" for reason, count in broken.most_common())
            message = f"{converter.find_file()}: {broken.total():,} records are left out ({reasons})"
            warnings.warn(message, stacklevel=2)


class LaSCoPairs(ConvertedPairs):
    """LaSCo; ``images`` of a synthesis is the folder that holds COCO's train2014 and val2014.

    Args:
        root: folder with the annotations.
        split: train or val.
        source: what `Pair.source` is to say.
        skip_broken: leave out records that can't be read, and warn of how many by reason; else the first is an error.
    """

    def __init__(self, root: Path, split: str = "train", source: str = "lasco", skip_broken: bool = False) -> None:
        super().__init__(source, skip_broken)
        self.root = Path(root)
        self.split = split

    def converter(self) -> Converter:
        return LaSCoConverter(self.root, self.split)


class HotelPairs(ConvertedPairs):
    """Hotel-CIR; ``images`` of a synthesis is its root.

    Args:
        root: folder with ``captions`` and ``images``.
        split: train, val or test.
        source: what `Pair.source` is to say.
        skip_broken: leave out records that can't be read, and warn of how many by reason; else the first is an error.
    """

    def __init__(self, root: Path, split: str = "train", source: str = "hotel", skip_broken: bool = False) -> None:
        super().__init__(source, skip_broken)
        self.root = Path(root)
        self.split = split

    def converter(self) -> Converter:
        return HotelConverter(self.root, self.split)


class ManifestPairs(SetPairs):
    """A manifest (`Manifest`); ``images`` of a synthesis is the folder that its paths are below.

    Images of records with the same ``image_set`` are the set of a pair, where they are no more than 6.

    Args:
        root: folder of the manifest.
        split: whose records are taken.
        file: name of the manifest; None for the first of those that `Manifest` looks for.
        source: what `Pair.source` is to say.
    """

    def __init__(self, root: Path, split: str = "train", file: str | None = None, source: str = "manifest") -> None:
        super().__init__(source)
        self.reader = ManifestReader(root, file=file)
        self.split = split

    def read(self) -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
        training = self.reader.read_training(self.split)
        sets: dict[int | None, dict[str, None]] = {}
        for record in training.records:
            if record.image_set is not None:
                sets.setdefault(record.image_set, {}).update(dict.fromkeys((record.reference, str(record.target))))
        for record in training.records:
            members = tuple(sets.get(record.image_set, {}))
            yield str(record.origin), record.reference, str(record.target), members if len(members) <= GROUP else ()


@contextmanager
def _settings_of_pairs() -> Iterator[None]:
    """Let errors of the readers name the settings of a synthesis."""
    try:
        yield
    except InputError as error:
        raise error.relocate("data", "pairs").relocate("skip_broken", "pairs.skip_broken") from None
