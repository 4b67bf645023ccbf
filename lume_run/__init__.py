"""lume-run: train, unlearn and evaluate language models from one command line."""

__version__ = "0.1.0"
