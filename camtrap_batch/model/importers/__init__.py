"""Models that others published, as folders that a job takes: `camtrap model import`. See `base`."""
