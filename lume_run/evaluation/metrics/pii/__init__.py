"""Whether a text discloses a private fact, whole or in part."""
