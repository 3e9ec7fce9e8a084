"""The published systems: each a network, a process, data and a sampler."""
