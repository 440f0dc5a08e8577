"""The kernel: elements, credits and settling. No input or output happens here."""
