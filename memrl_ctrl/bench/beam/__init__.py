"""`memrl-ctrl bench beam`: policies and classical controllers on the beam, in the same conditions."""
