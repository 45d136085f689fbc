"""DFREC on a folder of real face swaps with a manifest.

  python -m dfrec_jax.main --config=configs/triplets.py:root=FOLDER,train=train.csv,eval=val.csv

Data: manifests with the columns forged, source, target, mask, attack, source_identity and
target_identity; paths are relative to the manifest's folder. Arguments:

  root, train, eval   the folder and its manifests
  size                nano, Ti/16, S/16, B/16, L/16, H/14
  image_size          side of the model's images, in pixels
  encoder             weights of MobileFaceNet (.npz), for the identity terms and metrics; `none`
                      trains without the terms and does not measure identity
  steps, batch_size   how long to train; the curriculum and the schedule follow

Expected on 2 CPU cores in under an hour, with the defaults: docs/results.md.
"""

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(
    arguments,
    root='../shared/faces',
    train='train.csv',
    eval='val.csv',
    encoder='../shared/encoders/mobilefacenet.npz',
    size='nano',
    image_size=96,
    steps=2_700,
    batch_size=8,
  )
  config = common.base()
  config.name = 'triplets'
  config.steps = args.steps
  config.batch_size = args.batch_size
  # A small network that sees each photograph a few times underfits: it is not regularised.
  config.model.update(size=args.size, image_size=args.image_size, drop_connect=0.0, dropout=0.0)
  config.data.update(kind='triplets', root=args.root, train=args.train, eval=args.eval)
  # On a CPU the encoder costs as much as the model: half of the batch teaches it.
  config.loss.encoded_examples = args.batch_size // 2
  config.masking.end_step = args.steps // 3
  config.checkpoint_every = 300
  config.eval_every = 600
  common.use_face_encoder(config, args.encoder)
  if config.loss.weights.identity:
    # The true source is another photograph: without an anchor the recovered one becomes a pattern
    # that pleases the encoder.
    config.loss.weights.anchor = 10.0
  # Both terms would compare the same maps of the one encoder at hand; L_attr does.
  config.loss.weights.perceptual = 0.0
  return common.finish(config, args)
