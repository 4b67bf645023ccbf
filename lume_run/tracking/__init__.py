"""Logs a run to Weights & Biases or TensorBoard: its config, its curves while it trains, its scores at the end."""
