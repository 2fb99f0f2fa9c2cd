"""Healing: what trains, on which loss, and the training itself."""
