"""What differs between architectures: where the layers are, which config fields depend on them, what cannot be cut."""
