"""One page of all results: bundles and rows of what was run, and published figures beside them."""
