"""What is shown while a job runs (`display`), and what the run folder says about it (`status`)."""
