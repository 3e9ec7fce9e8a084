"""Files, pictures and lines for terminals: written whole or not at all, checked before, locked while."""
