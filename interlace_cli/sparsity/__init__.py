"""The baselines that drop weights instead of layers: N:M sparsity, by Wanda or by magnitude.

Change `pattern.py` for which weights of a group stay, `wanda.py` or `magnitude.py` for how weights are ranked.
"""
