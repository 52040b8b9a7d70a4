"""Training and retrieval measured on one GPU, in a limited time, into one file."""
