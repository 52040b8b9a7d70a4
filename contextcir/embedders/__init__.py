"""Embedders: models of others, which an evaluation ranks by the same protocols as a trained one."""
