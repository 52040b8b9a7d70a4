"""What was kept, in the file formats of other training sets."""
