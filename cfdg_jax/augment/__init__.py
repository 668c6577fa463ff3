"""Generators of synthetic transitions; `registry` names them."""
