"""What trained networks have learnt: measurements of runs beside one another, and their page."""
