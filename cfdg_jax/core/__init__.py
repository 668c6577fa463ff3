"""Networks, distributions, losses, optimisers and the seed axis: arrays in, arrays out, no I/O."""
