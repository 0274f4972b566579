"""TLP encoder, decoder and well-formedness rules, written from the specification facts and sharing nothing with the hardware."""
