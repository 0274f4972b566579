"""Device functions: what does DMA."""
