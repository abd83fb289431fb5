"""The stages of a job, a module each; `camtrap_batch.pipeline` says what a stage is, and has their order."""
