"""How shards are done: executors, what a worker is told, and what happens on the way."""
