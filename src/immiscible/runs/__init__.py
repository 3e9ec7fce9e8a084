"""A run: trained in its directory, opened again, described and exported."""
