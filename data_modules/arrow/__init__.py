"""Training sets in Arrow, memory-mapped: a million triplets in the memory of none, shared by all processes."""
