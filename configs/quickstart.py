"""DFREC on synthetic faces, on a CPU, in minutes; nothing is downloaded.

  make quickstart

or

  python -m dfrec_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Data: procedural people, face-swapped with exact masks; evaluation on people never seen. No frozen
encoder knows such faces, so the terms that need one are off and identity is not measured.
"""

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(arguments)
  config = common.base()
  config.name = 'quickstart'
  config.steps = 1_000
  config.batch_size = 12
  config.model.update(size='nano', image_size=64, drop_connect=0.0, dropout=0.0)
  config.model.update(composite_dilation=2, composite_softness=1.0)
  config.data.update(kind='synthetic', image_size=64)
  # Every example is seen once: variety needs no augmentation.
  config.data.augmentation.update(crop=0.0, probability=0.0)
  config.masking.update(end_step=300, predicted_mask_rate=0.25)
  config.optimizer.update(learning_rate=1.5e-3, warmup_steps=50)
  config.ema_decay = 0.99
  config.eval_every = 500
  config.checkpoint_every = 500
  common.without_encoders(config)
  return common.finish(config, args)
