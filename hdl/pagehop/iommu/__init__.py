"""The IOMMU: translation of device addresses, and the command that moves a page under live DMA."""
