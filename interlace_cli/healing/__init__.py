"""Healing: the short training of the tuned layers after a drop.

Change `loss.py` for the loss that is trained, `objective.py` for its terms (ce, distill, anchor, local), `step.py` for
how a row's terms are added up, `recipe.py` for the defaults, `heal.py` for the order of the stages, `trainer.py` for
the Trainer, `local.py` for layers that learn alone, `engine.py` for several devices, `compensation.py` for the linear
maps that need no training.
"""
