"""Protocols of three queries in the manner of CIRR and of CIRCO, and ranked lists for their submission files."""

import random
from typing import Any

from contextcir.evaluation.protocol import Protocol
from contextcir.evaluation.submission import FORMATS, SubmissionFormat

RECALL, SUBSET = FORMATS["cirr"]
(CIRCO,) = FORMATS["circo"]
GALLERY = 60


def cirr_protocol(gallery: int = GALLERY, **options: Any) -> Protocol:
    """Three queries; the reference of query n is image n, its set the six images from there, its target the next."""
    fields: dict[str, Any] = {
        "benchmark": "cirr",
        "split": "val",
        "gallery": tuple(f"dev-{number}" for number in range(gallery)),
        "query_ids": (12060, 7, 12063),
        "targets": ((1,), (2,), (3,)),
        "references": (0, 1, 2),
        "exclude_reference": True,
        "subsets": tuple(
            tuple(number % gallery for number in (n + 3, n, n + 1, n + 5, n + 4, n + 2)) for n in range(3)
        ),
    }
    return Protocol(**fields | options)


def circo_protocol(gallery: int = GALLERY, **options: Any) -> Protocol:
    """Three queries among COCO ids that start at 1000."""
    fields: dict[str, Any] = {
        "benchmark": "circo",
        "split": "val",
        "gallery": tuple(str(1000 + number) for number in range(gallery)),
        "query_ids": (0, 1, 2),
        "targets": ((3,), (4, 5), (6, 2)),
        "references": (0, 1, 2 if gallery < 3 else 7),
        "exclude_reference": False,
        "headline": "recall_at_1",
    }
    return Protocol(**fields | options)


def protocol_of(form: SubmissionFormat) -> Protocol:
    """The protocol that a format is for."""
    return circo_protocol() if form is CIRCO else cirr_protocol()


def some_lists(form: SubmissionFormat, protocol: Protocol, seed: int = 0) -> list[list[int]]:
    """Random lists of the right kind."""
    order, lists = random.Random(seed), []
    for query, reference in enumerate(protocol.references):
        pool = [image for image in form.pool(protocol, query) if image != reference]
        lists.append(order.sample(pool, form.count(protocol, query)))
    return lists
