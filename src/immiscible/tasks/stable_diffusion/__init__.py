"""Stable Diffusion (arXiv 2112.10752) on the components of diffusers and transformers."""
