"""Self-supervised pre-training with part-aware self-distillation: PASS; DINO is zero areas."""
