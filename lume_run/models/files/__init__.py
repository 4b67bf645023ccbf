"""What is wrong with the files of a model: what the libraries raise, configs, and the values of weights."""
