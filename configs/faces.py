"""DFREC on any folder of people's photographs, swapped on the fly.

  python -m dfrec_jax.main --config=configs/faces.py:root=FOLDER
  python -m dfrec_jax.main --config=configs/faces.py:root=tfds:lfw

Data: a folder of `<person>/<photo>` with `landmarks.npz`, as `python -m input_pipeline.prepare
faces --raw=PHOTOS --out=FOLDER` makes it of LFW, CelebA, VGGFace2 or one's own photographs. Every
pass shows other swaps; splits are by person. Arguments:

  root                the folder; or `tfds:NAME`, a set of TensorFlow Datasets, which the first use
                      fetches and prepares in data/NAME (docs/data.md)
  eval                what to evaluate on: a manifest (.csv) as for configs/triplets.py, or another
                      folder of people. If it is empty, or `root` is given without it, a twentieth
                      of the people of `root` is held out
  list                a manifest (.csv) of further swaps among the training people, made by other
                      means: half of what training sees; needs `eval`
  size                nano, Ti/16, S/16, B/16, L/16, H/14
  image_size          side of the model's images, in pixels
  encoder             weights of MobileFaceNet (.npz), for the identity terms and metrics; without
                      the usual file `shipped_lfw`, a weaker one of the package; `none` trains
                      without the terms and does not measure identity
  steps, batch_size   how long to train; the curriculum and the schedule follow

The defaults are those of configs/triplets.py but for the data: what swaps made on the fly gain over
a fixed list of them is the difference of the two.
"""

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(
    arguments,
    root='../shared/faces/lfw160/train',
    eval='../shared/faces/val.csv',
    list='',
    encoder=common.face_encoder(),
    size='nano',
    image_size=96,
    steps=2_700,
    batch_size=8,
  )
  config = common.base()
  config.name = 'faces'
  common.train_small(config, args)
  # Whoever brings a folder has not that manifest.
  own_eval = 'eval' in args.given or 'root' not in args.given
  config.data.update(
    kind='people',
    root=args.root,
    eval=args.eval if own_eval else '',
    list=args.list,
    eval_examples=256,
    image_size=args.image_size,
  )
  return common.finish(config, args)
