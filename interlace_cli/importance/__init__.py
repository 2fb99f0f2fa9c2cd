"""Importance: how much each layer matters, measured on a model in memory, by similarity, by the loss, or by gradients.

Change `span_lengths.py` for the lengths of spans, `similarity.py` for what is measured in one forward, `rows.py` for
how samples are batched, `means.py` for the averages over samples, `loss.py` for the loss increase of dropping layers
(with `search_state.py` for resuming it), `taylor.py` for gradients, `correlation.py` for how well two importances
agree.
"""
