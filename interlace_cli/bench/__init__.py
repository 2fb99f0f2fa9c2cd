"""`interlace bench`: the time and memory of each step, beside those of the usual way to do the same.

One file per part: `startup.py`, `analyze.py`, `prune.py`, `heal.py`, `serve.py`. To change: how two ways are timed ->
`interleaved_timing.py`; the random models and their sizes -> `shapes.py`; how floors are measured -> `machine.py`.
"""
