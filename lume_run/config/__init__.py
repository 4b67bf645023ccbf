"""What can be set, and how YAML files and overrides become it."""
