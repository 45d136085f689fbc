"""DFREC on synthetic faces, on a CPU, in minutes; nothing is downloaded.

  make quickstart

or

  python -m dfrec_jax.main --config=configs/quickstart.py --workdir=runs/quickstart

Data: procedural people, face-swapped with exact masks; evaluation on people never seen. Identity is
measured by the package's encoder of such faces, `shipped_synthetic`; the terms of the objective
that need an encoder are off, since they cost more than the model.
"""

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(arguments)
  config = common.base()
  config.name = 'quickstart'
  config.steps = 1_400
  config.batch_size = 8
  # A narrow SIRM: at this size it takes most of the time of a step, and drawn faces are simple.
  config.model.update(size='nano+sirm_widths=12-16-32-64-256', image_size=64)
  config.model.update(drop_connect=0.0, dropout=0.0, composite_dilation=3, composite_softness=1.0)
  common.refine(config)
  config.data.update(kind='synthetic', image_size=64)
  # Every example is seen once: variety needs no augmentation.
  config.data.augmentation.update(crop=0.0, probability=0.0)
  config.masking.update(end_step=300, predicted_mask_rate=0.5)
  # The segmentation tells these pastes well; a mask that hesitates loses the little that is left.
  config.loss.twin_segmentation = 0.15
  config.optimizer.update(learning_rate=1.5e-3, warmup_steps=50)
  config.ema_decay = 0.99
  config.eval_every = 700
  config.checkpoint_every = 700
  common.without_encoders(config)
  config.metric_encoder.weights = 'shipped_synthetic'
  # What takes seconds; the whole suite takes a minute or two.
  config.suite.update(baselines=('telea',), robustness_examples=0, landmarks=False)
  return common.finish(config, args)
