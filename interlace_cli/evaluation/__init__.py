"""What a checkpoint is worth: answers, losses, speed, and how sure one can be."""
