"""How good a model is: reconstruction of what it learned, plausibility of what it makes."""
