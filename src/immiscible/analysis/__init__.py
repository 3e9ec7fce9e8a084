"""What couplings do to the noise: measurements that need no network."""
