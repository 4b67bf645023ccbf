"""What `scripts/throughput.py` measures: training, packed against padded rows, answering, the idle time of a step."""
