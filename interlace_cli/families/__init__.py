"""What differs between architectures: where the layers are, which config fields depend on them, what cannot be cut.

Change `edit.py` for a config field that lists or counts layers, `feature_layers.py` for one that says where vision
features leave or enter, `limits.py` for layers that must stay, `tensors.py` for tensor names and their renumbering,
`stacks.py` for the field that holds the layer count, `modules.py` and `replay.py` for running a model with layers left
out, `packing.py` for attention inside packed rows, `architectures.py` for the list of tested architectures.
"""
