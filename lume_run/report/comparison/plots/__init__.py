"""The plots of many runs, for screens and for papers."""
