"""Train, unlearn, evaluate: each stage's artifacts, in order, made once and shared."""
