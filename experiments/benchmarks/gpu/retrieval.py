"""Ranking a large gallery on the device, against the bare product and its first images."""

import torch

from contextcir.evaluation.composition import CompositionMetric
from experiments.benchmarks.gpu.card import Card
from experiments.benchmarks.gpu.report import Report
from experiments.benchmarks.ranking import BATCH, Size, bare, make_protocol

COLUMNS = ["way", "ms", "of the product"]
REPEATS = 3


def measure_retrieval(card: Card, size: Size, width: int, report: Report) -> None:
    """Time the figures of all queries once everything is encoded, and the product in float32 with its first 50."""
    protocol, device = make_protocol(size), card.device
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        torch.randn(count, width, generator=generator).half().to(device) for count in (size.queries, size.gallery)
    )
    places = torch.arange(size.gallery, device=device)

    def ours() -> None:
        metric = CompositionMetric(protocol).to(device)
        for rows, part in zip(places.split(BATCH), gallery.split(BATCH), strict=True):
            metric.update_gallery(rows, part)
        for rows, part in zip(places[: size.queries].split(BATCH), queries.split(BATCH), strict=True):
            metric.update_queries(rows, part)
        metric.compute()

    found = {}
    for name, function in (("product and first 50", lambda: bare(protocol, queries, gallery)), ("all figures", ours)):
        function()
        found[name] = card.seconds(function, REPEATS)
        report.row(name, f"{1000 * found[name]:,.1f}", f"{found[name] / found['product and first 50']:.2f}")
