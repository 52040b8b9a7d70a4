"""What a synthesis writes: manifest, data card, sample page (`write`), and the same in other formats (`exports`)."""
