"""Datasets: where rows come from, how they are checked, transformed, stored and mixed."""
