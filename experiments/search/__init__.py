"""Search in a folder of photos: commands, and a page in the browser."""
