"""``python -m cfdg_jax``: the same as ``cfdg-jax``."""

import sys

from cfdg_jax.cli import main

sys.exit(main())
