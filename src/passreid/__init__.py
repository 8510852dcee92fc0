"""passreid: person re-identification with part-aware self-supervised transformers (PASS)."""
