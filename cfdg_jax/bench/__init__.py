"""What ``cfdg-jax bench`` measures: `measure` has the list."""
