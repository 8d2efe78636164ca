"""How good a checkpoint is: retrieval, boxes among phrases, positives among hard negatives. Each picture is encoded once."""
