"""Many images in few files, here or in object stores: tar and Parquet shards, and tables of keys that outgrow memory.

`places` finds and reads files by address, `tar` and `parquet` know where in a shard each image lies, and `keys` finds
a record among hundreds of millions by its key, in sorted tables on the disk that `rows` makes.
"""
