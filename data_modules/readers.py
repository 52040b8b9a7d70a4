"""The benchmarks that commands know by name: list a new one here."""

from data_modules.circo import CIRCOReader
from data_modules.cirr import CIRRReader
from data_modules.cirr_mteb import MTEBCIRRReader
from data_modules.fashioniq import FashionIQReader
from data_modules.genecis import GeneCISReader
from data_modules.icir import ICIRReader
from data_modules.lasco import LaSCoReader
from data_modules.manifest import ManifestReader
from data_modules.patterncom import PatternComReader
from data_modules.pinpoint import PinPointReader
from data_modules.reading.annotations import CaptionRecord
from data_modules.reading.reader import BenchmarkReader
from data_modules.scenes import ScenesReader

READERS: dict[str, type[BenchmarkReader]] = {
    reader.benchmark: reader
    for reader in (
        CIRRReader,
        CIRCOReader,
        FashionIQReader,
        LaSCoReader,
        GeneCISReader,
        ScenesReader,
        ManifestReader,
        MTEBCIRRReader,
        ICIRReader,
        PinPointReader,
        PatternComReader,
    )
}


def caption_formats() -> dict[str, type[CaptionRecord]]:
    """Return what holds the captions of each benchmark, by the field that tells the format of a file."""
    formats: dict[str, type[CaptionRecord]] = {}
    for reader in READERS.values():
        name, field = next(iter(reader.captions.model_fields.items()))
        formats.setdefault(field.alias or name, reader.captions)
    return formats
