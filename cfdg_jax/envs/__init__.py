"""Environments: many copies of one task stepped at once; the only place that imports gymnasium and mujoco."""
