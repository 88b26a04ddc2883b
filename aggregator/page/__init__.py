"""The live page beside /metrics: what every route does, holds and waits for. docs/live-page.md.

``view`` is what one process says of itself, ``joined`` makes one status of all processes', ``html`` renders
it, ``access`` says who may do what, ``site`` answers requests. Nothing here costs a message anything: all is
read when somebody looks.
"""
