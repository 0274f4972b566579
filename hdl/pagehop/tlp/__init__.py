"""The PCIe transaction layer: headers, streams, queues, credits, tables."""
