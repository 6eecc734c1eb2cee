"""Patches of a normalised image, projected, with class token and positions: what a ViT begins with."""
