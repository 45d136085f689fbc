"""DFREC at its published size (ViT-L/16, 224 px) on triplets of FaceForensics++.

  python -m input_pipeline.prepare ffpp --raw=DOWNLOAD --out=data
  python -m dfrec_jax.main --config=configs/ffpp.py:root=data/ffpp,encoder=FILE --workdir=DIR

on a pod slice: the second the same on every host, with --distributed. Data: what the first command
makes of the official tree (docs/data.md), split by video as its authors do; Deepfakes, FaceSwap and
FaceShifter, whatever of them is there. For accelerators: bfloat16, parameters and optimizer divided
over `fsdp` devices, the transformers' heads over `tensor`. Arguments:

  root         folder of the prepared data
  train, eval  splits: train, val, test; with `--methods` of reenactments in the preparation also
               train_reenactment and so on, which teach detection and segmentation but have no
               source to recover: set the other weights to zero
  encoder      weights of MobileFaceNet (.npz); `none` trains without the identity terms
  size, image_size, batch_size, steps, fsdp, tensor
"""

import ml_collections

from configs import common

_HOW_TO_GET = (
  'ask the authors for FaceForensics++ and run python -m input_pipeline.prepare ffpp '
  '--raw=DOWNLOAD --out=data, as docs/data.md describes.'
)


def get_config(arguments: str | None = None):
  return prepared_config('ffpp', arguments, _HOW_TO_GET)


def prepared_config(name: str, arguments: str | None, how_to_get: str) -> ml_collections.ConfigDict:
  """The published size on a prepared data set, `data/NAME` unless told otherwise."""
  args = common.parse_arguments(
    arguments,
    root=f'data/{name}',
    train='train',
    eval='val',
    encoder='',
    size='L/16',
    image_size=224,
    batch_size=256,
    steps=100_000,
    fsdp=1,
    tensor=1,
  )
  config = common.base()
  config.name = name
  config.steps = args.steps
  config.batch_size = args.batch_size
  config.model.update(
    size=args.size,
    image_size=args.image_size,
    dtype='bfloat16',
    remat='full',
    drop_connect=0.2,
    dropout=0.5,
    composite_dilation=6,
    composite_softness=4.0,
  )
  config.data.update(kind='prepared', root=args.root, train=args.train, eval=args.eval, workers=8)
  config.data.how_to_get = how_to_get
  config.masking.end_step = args.steps // 3
  config.optimizer.update(learning_rate=4e-4, warmup_steps=min(5_000, args.steps // 20))
  config.loss.encoder_dtype = 'bfloat16'
  config.mesh.update(fsdp=args.fsdp, tensor=args.tensor)
  config.ema_decay = 0.9998
  config.checkpoint_every = 1_000
  config.eval_every = 5_000
  config.eval_examples = 512
  common.use_face_encoder(config, args.encoder)
  return common.finish(config, args)
