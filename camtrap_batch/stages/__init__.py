"""The stages of a job, one module each; `camtrap_batch.pipeline` says what a stage is, and their order."""
