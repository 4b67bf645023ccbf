"""Attacks: what is tried on a model or its prompts to bring back what it forgot, and what the answers are worth."""
