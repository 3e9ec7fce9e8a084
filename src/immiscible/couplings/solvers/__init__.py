"""Solvers of the assignment, and which one is taken when."""
