"""RWKU: real people to forget, from files to what is trained on and what is asked."""
