"""The vocabulary as frozen records. No torch, no disk."""
