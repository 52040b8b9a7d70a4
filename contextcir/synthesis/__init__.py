"""Triplets from images: pairs of images, descriptions, modification texts, filters, and a manifest that trains.

The package is built in floors; each imports only those above it in this list:

1. `records` (what the stages hand on), `prompts` (versioned prompt files), `store` (append-only shards on disk),
2. `stages`: what all stages have in common, a class with ``run``,
3. `models`: who answers requests, behind one interface,
4. `request_stage`: the stage that sends requests to a model; `describe` and `instruct` are its two tasks,
5. `pairs` and `mining`: the first stage, and where its pairs come from; `filters`: the stage that judges texts,
6. `outputs`: the last stage: manifest, data card, sample page, exports.

Nothing here imports torch, transformers or a parser before it is used: a command line that only reads its settings
starts in a second.
"""
