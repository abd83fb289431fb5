"""Shards over workers: the protocol (`base`), a Dask cluster (`dask`), this very process (`inline`)."""
