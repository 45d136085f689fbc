"""The evaluation suite: every metric, protocol and baseline of a paper's tables, and a page.

`dfrec_jax.evaluate` runs it with `--mode=eval`; `python -m dfrec_jax.suite` does what needs several
checkpoints: the cross-dataset matrix, the ablations, LaTeX tables.
"""
