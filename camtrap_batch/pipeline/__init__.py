"""What a stage is, and how its shards are planned, done and committed."""
