"""Shards over workers: the protocol (`base`), a Dask cluster (`dask`), this process itself (`inline`)."""
