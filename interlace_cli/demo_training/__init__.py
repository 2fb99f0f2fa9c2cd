"""Scripts that made the demo model. They are run by hand; nothing imports them.

`train.py` trains the model from scratch; `card.py` measures it and writes its model card.
"""
