"""Images in tar shards with an offset index, on disks that hate small files and on object stores."""
