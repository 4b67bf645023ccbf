"""What a model is still good for: suites about the world, plain text and other harnesses, whatever the task is."""
