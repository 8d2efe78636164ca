"""What `make demo` runs on: scenes with known truth, photographs, their tables, a server that misbehaves, tiny models."""
