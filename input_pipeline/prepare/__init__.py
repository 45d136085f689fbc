"""From raw downloads to triplets: `python -m input_pipeline.prepare DATASET --raw=... --out=...`.

A preparation is a list of units, each a pair of videos or a few dozen images. `work` runs the units
in parallel and leaves for each one a part (examples) and a report (what was read, what could not be
used), so that a run goes on where it stopped; `input_pipeline.tfds` joins the parts into shards.
One module per data set says what its units are and how examples are made of one.
"""
