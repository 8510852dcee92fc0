"""What fine-tuning, adaptation and pre-training share: recipes, the loop, run folders, batches."""
