"""Suites: what a set of metrics asks a model, and the scores it makes of the answers. Evaluators are made of them."""
