"""pagehop: hardware that moves memory pages under live DMA."""
