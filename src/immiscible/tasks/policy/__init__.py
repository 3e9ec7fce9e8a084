"""Diffusion policies: what a robot does next, drawn given what it observes."""
