"""The auto-decoder f_θ(x, t, z), its latent codes and its weights on disk.

Everything above ``model.engine`` may import it; it knows no file format but that of weights. Read
:mod:`model.network.autodecoder` first.
"""
