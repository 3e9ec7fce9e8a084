"""The training loop and what it keeps on disk: configuration, checkpoints, events."""
