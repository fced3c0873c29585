"""The auto-decoder f_θ(x, t, z), its latent codes and its weights on disk.

``model.living_cell`` and the packages above it import it; it imports the engine and knows no file format but that of
weights. Read :mod:`model.network.autodecoder` first, then :mod:`model.network.decoder`, the interface to the rest.
"""
