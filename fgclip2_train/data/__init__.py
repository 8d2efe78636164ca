"""From WebDataset shards to batches: pictures cut into patches, texts into tokens, one endless seeded order that can be resumed."""
