"""The interposer: a device in the link that moves pages under live DMA."""
