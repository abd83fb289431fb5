"""The run folder: plans, shards, receipts, snapshots, schemas, atomic writes.

`folder` writes atomically, `shards` says what is to do and what is done, `tables` writes rows and commits
them, `snapshots` is what readers see, `run` ties these together, `schemas` defines every table.
"""
