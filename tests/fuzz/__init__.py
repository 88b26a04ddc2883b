"""Bytes of strangers, by coverage: ``make fuzz SECONDS=60``; Hypothesis drives the same targets."""
