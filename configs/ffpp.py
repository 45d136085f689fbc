"""DFREC at its published size (ViT-L/16, 224 px) on triplets of FaceForensics++.

  python -m dfrec_jax.main --config=configs/ffpp.py:root=FOLDER,encoder=FILE --workdir=DIR

on a pod slice: the same on every host, with --distributed. Data: a folder with `train.csv` and
`val.csv` as for configs/triplets.py, made of frames of the data set, split by video as its authors
do. For accelerators: bfloat16, parameters and optimizer divided over `fsdp` devices. Arguments:

  root         folder with the manifests
  encoder      weights of MobileFaceNet (.npz); `none` trains without the identity terms
  size, image_size, batch_size, steps, fsdp
"""

from configs import common

_HOW_TO_GET = (
  'ask the authors for FaceForensics++ (github.com/ondyari/FaceForensics), crop its frames, and '
  'list forged, source, target and mask in it, as configs/triplets.py describes.'
)


def get_config(arguments: str | None = None):
  args = common.parse_arguments(
    arguments,
    root='data/ffpp',
    encoder='',
    size='L/16',
    image_size=224,
    batch_size=256,
    steps=100_000,
    fsdp=1,
  )
  config = common.base()
  config.name = 'ffpp'
  config.steps = args.steps
  config.batch_size = args.batch_size
  config.model.update(
    size=args.size,
    image_size=args.image_size,
    dtype='bfloat16',
    remat=True,
    drop_connect=0.2,
    dropout=0.5,
    composite_dilation=6,
    composite_softness=4.0,
  )
  config.data.update(kind='triplets', root=args.root, how_to_get=_HOW_TO_GET, workers=8)
  config.masking.end_step = args.steps // 3
  config.optimizer.update(learning_rate=4e-4, warmup_steps=min(5_000, args.steps // 20))
  config.loss.encoder_dtype = 'bfloat16'
  config.mesh.fsdp = args.fsdp
  config.ema_decay = 0.9998
  config.checkpoint_every = 1_000
  config.eval_every = 5_000
  config.eval_examples = 512
  common.use_face_encoder(config, args.encoder)
  return common.finish(config, args)
