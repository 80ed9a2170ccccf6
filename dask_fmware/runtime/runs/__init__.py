"""The runs and their calls, on record: whether a run is admitted, its state and attempts, what its tenant was given.

It owns who is in which state. Where a call runs and how long that takes are other folders' business.
"""
