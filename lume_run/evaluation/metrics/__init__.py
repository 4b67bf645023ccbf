"""Metrics: pure functions over responses, or over the plain numbers and texts that responses hold."""
