"""The service as several processes: a parent that starts, watches and stops children that do the work.

A child is a fresh interpreter (``python -m aggregator.processes.child``), not a fork: it loads the
same settings anew and shares nothing but its line to the parent and the files of its metrics.
"""
