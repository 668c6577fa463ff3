"""The loops of a run: offline, online, refresh, evaluation, checkpoints and logs."""
