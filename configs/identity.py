"""An identity encoder on any folder of people: nobody else's weights are needed.

  python -m dfrec_jax.main --config=configs/identity.py:root=FOLDER --workdir=DIR
  python -m dfrec_jax.main --config=configs/identity.py:root=FOLDER --workdir=DIR --mode=eval
  python -m dfrec_jax.main --config=configs/identity.py:network=iresnet,root=FOLDER --workdir=DIR

Data: `<person>/<photo>` with `landmarks.npz`, as `python -m input_pipeline.prepare faces` makes it,
or of crops alike without it (`swap_rate=0`). The encoder is DIR/encoder.safetensors, which every
`encoder=` and `--encoder-weights=` takes; figures are of people who are not in training
(docs/identity.md). Arguments:

  kind                people, or synthetic: procedural people, without a folder
  root                the folder
  eval                another folder of people to evaluate on; if it is empty, a twentieth of the
                      people of `root` is held out
  network             mobilefacenet or iresnet, ArcFace's residual network; also with --mode=eval
  depth               of iresnet alone, 18 unless given: 18, 34, 50, 100, 200, or the blocks of its
                      four layers, such as 2-2-2-2
  width               channels relative to the published network
  pool                the aligned face is 16 times that many pixels wide: 4 is 64 px, 7 is 112 px
  swap_rate           how often a view shows a face on another person's photograph; needs landmarks
  steps, batch_size   how long to train, and the people in a step, each in two views
  licence             what the exported file says of its use
"""

import ml_collections

from configs import common


def get_config(arguments: str | None = None):
  args = common.parse_arguments(
    arguments,
    kind='people',
    root='../shared/faces/lfw160/train',
    eval='',
    network='mobilefacenet',
    depth='',
    width=0.5,
    pool=4,
    swap_rate=0.1,
    steps=4_000,
    batch_size=32,
    licence='as the photographs it was trained on',
  )
  config = ml_collections.ConfigDict()
  config.name = 'identity'
  config.seed = 0
  config.steps = args.steps
  config.batch_size = args.batch_size
  config.model = ml_collections.ConfigDict(
    dict(
      network=args.network,
      depth=_depth(args),
      width=args.width,
      pool=args.pool,
      dtype='float32',
    )
  )
  config.identity = ml_collections.ConfigDict(
    dict(
      # ArcFace's own margin, 0.5, is for a hundred photographs of a person.
      margin=0.2,
      margin_steps=args.steps // 4,
      scale=16.0,
      # Most people of a small folder have one photograph: what its views share says more than a
      # direction that no other photograph confirms.
      contrast=3.0,
      temperature=0.1,
    )
  )
  config.data = _data(args)
  config.optimizer = common.base().optimizer
  config.optimizer.update(learning_rate=2e-3, warmup_steps=50, clip_norm=5.0, b2=0.99)
  config.optimizer.module_scale = ml_collections.ConfigDict()
  config.ema_decay = 0.998
  config.mesh = common.base().mesh
  config.compiler_options = 'default'
  config.export_dtype = 'float16'
  config.licence = args.licence
  config.log_every = 50
  config.checkpoint_every = 200
  config.eval_every = 400
  config.checkpoint = ml_collections.ConfigDict(
    dict(keep_latest=2, keep_best=1, best_metric='auc', best_metric_is_low=False)
  )
  return _runlocal(config, args) if args.runlocal else config


def _depth(args) -> str:
  if args.depth or args.network != 'iresnet':
    return args.depth
  return '1-1-1-1' if args.runlocal else '18'


def _data(args) -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      kind=args.kind,
      root=args.root,
      eval=args.eval,
      held_out=0.05,
      swap_rate=args.swap_rate,
      # Of `synthetic`: how many people, and of each evaluated one how many photographs.
      train_people=20_000,
      eval_people=300,
      eval_photographs=3,
      # Side of the pictures that are evaluated, which the encoder shrinks itself.
      eval_side=160,
      workers=0,
      # Of each view; fields of dfrec_jax.identity.views.Variation.
      augmentation=dict(
        flip=True,
        rotation=4.0,
        scale=0.05,
        crop=0.025,
        probability=0.3,
        colour=0.3,
        light=0.4,
        blur=1.2,
        noise=8.0,
        jpeg=(30, 95),
        cover=0.35,
      ),
    )
  )


def _runlocal(config, args) -> ml_collections.ConfigDict:
  """The same path through the program in seconds; on synthetic people unless a root is given."""
  given = set(args.given)
  config.steps = args.steps if 'steps' in given else 10
  config.batch_size = args.batch_size if 'batch_size' in given else 8
  config.model.update(
    width=args.width if 'width' in given else 0.125, pool=args.pool if 'pool' in given else 2
  )
  if 'root' not in given:
    config.data.kind = 'synthetic'
  config.data.update(train_people=64, eval_people=12, eval_photographs=2, eval_side=48)
  config.identity.margin_steps = 2
  config.optimizer.warmup_steps = 1
  config.log_every = 1
  config.checkpoint_every = 2
  config.eval_every = 10
  return config
