"""Shards over a Dask cluster."""
