"""DFREC on a folder of real face swaps with a manifest.

  python -m dfrec_jax.main --config=configs/triplets.py:root=FOLDER,train=train.csv,eval=val.csv

Data: manifests with the columns forged, source, target, mask, attack, source_identity and
target_identity; paths are relative to the manifest's folder. Arguments:

  root, train, eval   the folder and its manifests
  size                nano, Ti/16, S/16, B/16, L/16, H/14
  image_size          side of the model's images, in pixels
  encoder             weights of MobileFaceNet (.npz), for the identity terms and metrics; without
                      the usual file `shipped_lfw`, a weaker one of the package; `none` trains
                      without the terms and does not measure identity
  steps, batch_size   how long to train; the curriculum and the schedule follow

On 2 CPU cores in under an hour; docs/results.md has the figures of an earlier recipe on this data,
and those of configs/faces.py with the list mixed in, which is the same recipe as this one.
"""

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(
    arguments,
    root='../shared/faces',
    train='train.csv',
    eval='val.csv',
    encoder=common.face_encoder(),
    size='nano',
    image_size=96,
    steps=2_700,
    batch_size=8,
  )
  config = common.base()
  config.name = 'triplets'
  common.train_small(config, args)
  config.data.update(kind='triplets', root=args.root, train=args.train, eval=args.eval)
  return common.finish(config, args)
