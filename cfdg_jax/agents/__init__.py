"""Base agents, one file each in the same section order; `registry` names them."""
