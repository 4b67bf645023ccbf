"""One optimisation, from a model folder into a model folder."""
