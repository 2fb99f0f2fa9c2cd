"""The baselines that drop weights and no layers: N:M sparsity by Wanda or by magnitude."""
