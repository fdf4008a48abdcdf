"""LoRA on a real transformer: the network, the starts, the training, and tools for adapters from elsewhere."""
