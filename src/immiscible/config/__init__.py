"""What is trained and how, as plain data. Imports no torch."""
