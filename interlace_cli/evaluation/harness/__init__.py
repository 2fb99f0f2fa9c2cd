"""Benchmarks run by outside harnesses, lmms-eval and VLMEvalKit.

To change: which benchmarks there are and what each harness calls them -> `benchmarks.py`; how a harness is called and
its result files are read -> `lmms_eval.py`, `vlmevalkit.py`; retention over benchmarks -> `retention.py`; running,
resuming and importing -> `runner.py`.
"""
