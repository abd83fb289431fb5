"""What is shown while a job runs (`display`), and what the run folder tells about it (`status`)."""
