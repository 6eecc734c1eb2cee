"""A very small Lynx with random weights, for tests that need a model but no recorded numbers."""

from __future__ import annotations

from lynx_engine.config import BridgeConfig, LlamaConfig, LynxConfig, VisionConfig
from lynx_engine.model import LynxModel, init_parameters

SMALL = LynxConfig(
    vision=VisionConfig(image_size=28, hidden_size=24, num_layers=2, num_heads=2, intermediate_size=40),
    bridge=BridgeConfig(num_layers=1, num_latents=3, num_heads=2, head_dim=8),
    llm=LlamaConfig(vocab_size=50, hidden_size=32, num_layers=3, num_heads=2, intermediate_size=48, pad_token_id=49),
    adapter_freq=2,
    num_frames=2,
    name="small",
)


def small_model(config: LynxConfig = SMALL, seed: int = 0) -> LynxModel:
    model = LynxModel(config)
    init_parameters(model, seed)
    return model.eval()
