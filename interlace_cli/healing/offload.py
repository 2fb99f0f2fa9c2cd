"""Healing by one process on one GPU that has no room for the training state (`--engine offload`): it lies on the host.

What is held where, with P parameters in the tuned layers, P_l in the largest of them, and D bytes of the compute dtype
(2; 4 for `--dtype float32`). Norms and biases, a few thousandths of P, are float32 everywhere.

    device  D P       weights, in the compute dtype; frozen ones and activations as with other engines
            D P_l     gradients: at most those of one layer, on their way to the host
            nothing   of master weights, moments, summed gradients, autocast's casts, and of the optimizer's step
    host    4 P       master weights, float32
            4 P       gradients, summed over the rows of a step in float32
            8 P       AdamW's moments
            3 D P_l   pinned: one layer's gradients on their way out, two layers' weights on their way back (torch
                      rounds each tensor up to a power of two)

The weights are those of other engines to rounding: autocast would give the same casts of the master weights to the same
kernels, gradients are summed in float32, and clipping and AdamW are torch's.
"""

from __future__ import annotations
