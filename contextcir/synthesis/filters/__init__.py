"""Which texts are kept: filters, their order in `verdicts`, and a CLIP that looks at the images."""
