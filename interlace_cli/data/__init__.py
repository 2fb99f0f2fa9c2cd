"""Sources -> conversations -> batches. One file for each source."""
