"""What every training stage shares: processes, run folders, the loop that loses no step."""
