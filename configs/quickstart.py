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
  config.steps = 1_500
  config.batch_size = 16
  config.model.update(size='nano', image_size=64)
  config.data.update(kind='synthetic', image_size=64)
  config.masking.end_step = 500
  config.optimizer.warmup_steps = 50
  config.ema_decay = 0.99
  config.eval_every = 500
  config.checkpoint_every = 500
  common.without_encoders(config)
  return common.finish(config, args)
