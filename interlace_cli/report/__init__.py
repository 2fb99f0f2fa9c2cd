"""What people are shown: the model card and the report."""
