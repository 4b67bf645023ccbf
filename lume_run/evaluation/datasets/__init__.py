"""What suites ask besides the task: benchmark files read into examples."""
