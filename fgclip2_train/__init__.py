"""FG-CLIP 2: model, losses, data, training loop, checkpoints and evaluation. Knows only WebDataset shards (docs/shard-format.md)."""
