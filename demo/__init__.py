"""What `make demo` runs on: rendered scenes with known truth, photographs, their tables, the server they are fetched from, tiny models."""
