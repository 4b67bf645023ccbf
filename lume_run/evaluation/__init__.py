"""Questions put to a model, its responses, and the scores made of them."""
