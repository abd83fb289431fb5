"""A detector's boxes: where they come from, which of them count, what is cut from a picture."""
