"""Which images to train on: classes, choice, split."""
