"""Diffusion machinery: a sampler takes a `denoise` function, and guidance wraps one."""
