"""The unlearn stage: what a target gives to a loss beforehand, and a recipe for each kind of method."""
