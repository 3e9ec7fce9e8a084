"""Assignments over several processes."""
