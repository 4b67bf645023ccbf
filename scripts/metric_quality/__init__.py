"""What `scripts/metrics_study.py` is made of: documents, the pool of models, the numbers, the table."""
