"""``python -m cfdg_jax``: the same as ``cfdg-jax``."""

import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # while Python imports, Ctrl-C ends quietly; the command line takes over

from cfdg_jax.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
