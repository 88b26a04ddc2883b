"""The drawings of the documentation: ``python -m docs.pictures`` writes them, a test compares them.

All are made of the same few shapes (:mod:`docs.pictures.svg`), so that they look alike.
"""
