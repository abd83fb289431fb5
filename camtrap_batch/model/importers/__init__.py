"""Published models as folders that a job can use: `camtrap model import`. See `base`."""
