"""Result bundles: what a run has measured, with the ranks that every figure can be computed from again."""
