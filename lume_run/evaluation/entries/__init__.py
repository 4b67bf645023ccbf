"""The definitions of all scores: what suites measure, what is read inside a model, what attacks bring back."""
