"""What is read inside a model, layer by layer: what its states say, and what they lack."""
