"""The Lynx adapter: LayerNorm, a bottleneck MLP and a scaled residual after a decoder layer."""
