"""Self-supervised pre-training with part-aware self-distillation: PASS, or DINO with 0 areas."""
