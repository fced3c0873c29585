"""The released method against ours: equal parameters, equal training time, the same machine load."""
