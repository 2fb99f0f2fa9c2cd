"""How much a layer matters, measured on a model in memory: by similarity, by the loss, by gradients."""
