"""Benchmarks that come with running text: MUSE, WMDP."""
