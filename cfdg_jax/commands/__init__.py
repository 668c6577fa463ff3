"""The subcommands of ``cfdg-jax``; importing them loads neither JAX nor NumPy, running them does."""
