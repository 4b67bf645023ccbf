"""Files and rows of LUME and SemEval-2025 Task 4."""
