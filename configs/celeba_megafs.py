"""DFREC at its published size (ViT-L/16, 224 px) on CelebA-MegaFS.

  python -m input_pipeline.prepare celeba_megafs --raw=DOWNLOAD --out=data
  python -m dfrec_jax.main --config=configs/celeba_megafs.py:encoder=FILE --workdir=DIR

Data: swaps of MegaFS (FTM, IDInjection, LCR) over CelebA-HQ, what the first command makes of them
(docs/data.md): nobody of one split is in another. There are no masks in this set; as in the
published training, the box of the face is the mask, so its segmentation says where a face was
pasted, not along which line. Arguments: those of configs/ffpp.py; `root` is data/celeba_megafs.
"""

from configs.ffpp import prepared_config

_HOW_TO_GET = (
  'download the images of MegaFS and of CelebA-HQ and run python -m input_pipeline.prepare '
  'celeba_megafs --raw=DOWNLOAD --out=data, as docs/data.md describes.'
)


def get_config(arguments: str | None = None):
  return prepared_config('celeba_megafs', arguments, _HOW_TO_GET)
