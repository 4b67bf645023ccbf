"""What is wrong with a run before anything of it runs."""
