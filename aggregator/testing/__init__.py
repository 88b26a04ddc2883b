"""Doubles of a broker and a sink that behave, for this project's tests and its users' own."""
