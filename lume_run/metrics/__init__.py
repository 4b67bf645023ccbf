"""Metrics: pure functions over `records.Response`; no model, tokenizer or file of a run is touched here."""
