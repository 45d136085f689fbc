"""DFREC at its published size (ViT-L/16, 224 px) on FFHQ-E4S.

  python -m input_pipeline.prepare ffhq_e4s --raw=FOLDER --out=data
  python -m dfrec_jax.main --config=configs/ffhq_e4s.py:encoder=FILE --workdir=DIR

Data: swaps of E4S over FFHQ, named in a list of forged, source and target, what the first command
makes of them (docs/data.md): no photograph of one split is in another. There are no masks in this
set; the box of the face is the mask, or, with `--mask=difference`, what the swap changed.
Arguments: those of configs/ffpp.py; `root` is data/ffhq_e4s.
"""

from configs.ffpp import prepared_config

_HOW_TO_GET = (
  'swap photographs of FFHQ with E4S, list them, and run python -m input_pipeline.prepare ffhq_e4s '
  '--raw=FOLDER --out=data, as docs/data.md describes.'
)


def get_config(arguments: str | None = None):
  return prepared_config('ffhq_e4s', arguments, _HOW_TO_GET)
