"""Attention with a bidirectional prefix, key holes and packed sequences: LLM, vision encoder and resampler use it."""
