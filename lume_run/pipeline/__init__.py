"""Train, unlearn, evaluate: what each stage makes, in order; every artifact is made once and shared between runs."""
