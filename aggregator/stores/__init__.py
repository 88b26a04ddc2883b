"""What a route keeps elsewhere than in its sink: ids that were written, verdicts for those who ask."""
