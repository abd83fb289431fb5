"""Sound baseline JPEG files, read at a fraction of their size."""
