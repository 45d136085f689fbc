"""DFREC on any folder of people's photographs, swapped on the fly.

  python -m dfrec_jax.main --config=configs/faces.py:root=FOLDER

Data: a folder of `<person>/<photo>` with `landmarks.npz`, as `python -m input_pipeline.prepare
faces --raw=PHOTOS --out=FOLDER` makes it of LFW, CelebA, VGGFace2 or one's own photographs. Every
pass shows other swaps; splits are by person. Arguments:

  root                the folder
  eval                what to evaluate on: a manifest (.csv) as for configs/triplets.py, or another
                      folder of people. If it is empty, or `root` is given without it, a twentieth
                      of the people of `root` is held out
  size                nano, Ti/16, S/16, B/16, L/16, H/14
  image_size          side of the model's images, in pixels
  encoder             weights of MobileFaceNet (.npz), for the identity terms and metrics; `none`
                      trains without the terms and does not measure identity
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
    encoder='../shared/encoders/mobilefacenet.npz',
    size='nano',
    image_size=96,
    steps=2_700,
    batch_size=8,
  )
  config = common.base()
  config.name = 'faces'
  config.steps = args.steps
  config.batch_size = args.batch_size
  # A small network that sees each photograph a few times underfits: it is not regularised.
  config.model.update(size=args.size, image_size=args.image_size, drop_connect=0.0, dropout=0.0)
  # Whoever brings a folder has not that list.
  own_list = 'eval' in args.given or 'root' not in args.given
  config.data.update(
    kind='people',
    root=args.root,
    eval=args.eval if own_list else '',
    eval_examples=256,
    image_size=args.image_size,
  )
  # On a CPU the encoder costs as much as the model: half of the batch teaches it.
  config.loss.encoded_examples = args.batch_size // 2
  config.masking.end_step = args.steps // 3
  config.checkpoint_every = 300
  config.eval_every = 600
  common.use_face_encoder(config, args.encoder)
  if config.loss.weights.identity:
    config.loss.weights.anchor = 10.0  # As in configs/triplets.py.
  # Both terms would compare the same maps of the one encoder at hand; L_attr does.
  config.loss.weights.perceptual = 0.0
  return common.finish(config, args)
