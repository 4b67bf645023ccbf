"""A causal language model: loaded or built, its weights, its forward pass, its rows of tokens."""
