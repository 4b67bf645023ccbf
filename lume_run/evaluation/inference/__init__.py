"""What a model is run for in evaluation: texts, log-probabilities, choices, gradient norms."""
