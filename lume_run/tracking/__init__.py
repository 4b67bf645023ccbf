"""What others get to see of a run while it goes on and when it has ended: Weights & Biases, TensorBoard."""
