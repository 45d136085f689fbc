"""What every configuration starts from, and the one parser of their arguments."""

import os
from typing import Any

import ml_collections

from dfrec_jax.errors import InputError
from dfrec_jax.shipped import FACE_ENCODER


def parse_arguments(arguments: str | None, **defaults: Any) -> ml_collections.ConfigDict:
  """Parses what follows the colon of `--config=configs/NAME.py:runlocal,size=S/16`.

  `runlocal` alone means `runlocal=True`; values take the type of their default. The names that were
  given are in the result's `given`, a tuple.

  Raises:
    InputError: an unknown argument, or a value of another type.
  """
  defaults = {'runlocal': False, **defaults}
  values, given_names = dict(defaults), []
  for item in filter(None, (arguments or '').split(',')):
    name, given, text = item.partition('=')
    if name not in defaults:
      raise InputError(
        f'The configuration has no argument {name!r}; it takes {", ".join(sorted(defaults))}.'
      )
    if not given and not isinstance(defaults[name], bool):
      raise InputError(f'The argument {name} needs a value: {name}=...')
    given_names.append(name)
    values[name] = _parse_value(name, text if given else 'true', type(defaults[name]))
  return ml_collections.ConfigDict({**values, 'given': tuple(given_names)})


def _parse_value(name: str, text: str, kind: type) -> Any:
  if kind is bool:
    if text.lower() in ('true', '1', 'false', '0'):
      return text.lower() in ('true', '1')
    raise InputError(f'The argument {name} is true or false, not {text!r}.')
  try:
    return kind(text)
  except ValueError as error:
    raise InputError(f'The argument {name} is of type {kind.__name__}, not {text!r}.') from error


def base() -> ml_collections.ConfigDict:
  """The settings that most configurations share; every field that the program reads is here."""
  config = ml_collections.ConfigDict()
  config.name = ''
  config.seed = 0
  config.steps = 10_000
  config.batch_size = 16  # of all devices and hosts together
  config.init_from = ''  # A checkpoint that training starts from: workdir, converted folder, file.
  # What parts of the networks start from. `ism`: a checkpoint whose segmentation is taken, as
  # `init_from` names one; the others are files of other projects: docs/convert.md.
  config.pretrained = ml_collections.ConfigDict(dict(ism='', efficientnet='', vit=''))
  config.model = _model()
  config.data = _data()
  config.masking = ml_collections.ConfigDict(
    dict(
      # Masked patches are random at `start_step` and cover the whole face from `end_step` on.
      start_step=0,
      end_step=3_000,
      # How often the predicted mask guides instead of the true one: what evaluation has.
      predicted_mask_rate=0.25,
    )
  )
  config.loss = _loss()
  config.metric_encoder = ml_collections.ConfigDict(dict(name='mobilefacenet', weights=''))
  config.optimizer = ml_collections.ConfigDict(
    dict(
      learning_rate=1e-3,
      warmup_steps=200,
      final_fraction=0.01,
      weight_decay=0.05,
      b1=0.9,
      b2=0.95,  # as masked autoencoders are trained
      eps=1e-8,
      clip_norm=1.0,
      accumulate_steps=1,
      # Learning rate of each network relative to `learning_rate`; 0 freezes it, the statistics of
      # its batch norms too.
      module_scale=dict(ism=1.0, sirm=1.0, tirm=1.0),
    )
  )
  config.ema_decay = 0.999
  config.mesh = ml_collections.ConfigDict(dict(data=-1, fsdp=1, tensor=1))
  config.compiler_options = 'default'  # A name of dfrec_jax.programs.COMPILER_OPTIONS.
  config.suite = _suite()
  config.log_every = 50
  config.checkpoint_every = 500
  config.eval_every = 2_000
  config.eval_examples = 64  # during training; 0 evaluates all of them
  config.figure_rows = 8
  config.checkpoint = ml_collections.ConfigDict(
    dict(keep_latest=2, keep_best=1, best_metric='target_psnr', best_metric_is_low=False)
  )
  return config


def _model() -> ml_collections.ConfigDict:
  """Fields of `dfrec_jax.models.dfrec.DFREC`."""
  return ml_collections.ConfigDict(
    dict(
      size='nano',
      image_size=112,
      indexing='aligned',
      fusion='add',
      forged_tokens=True,
      source_residual=True,
      target_residual=True,
      grey_surroundings=True,
      refinement=0,
      mask_ratio=0.5,
      composite=True,
      composite_dilation=3,
      composite_softness=2.0,
      input_normalisation='none',
      drop_connect=0.1,
      dropout=0.1,
      remat='none',  # A name of dfrec_jax.models.remat.POLICIES.
      attention='auto',  # `xla`: without the kernels that fuse it on a TPU and a GPU.
      without='',  # Ablations; a name of dfrec_jax.models.dfrec.PARTS.
      dtype='float32',
    )
  )


def _data() -> ml_collections.ConfigDict:
  return ml_collections.ConfigDict(
    dict(
      kind='synthetic',
      # `triplets`: the folder, and the manifests within it. `prepared`: the folder of a prepared
      # data set, its splits, and what an error says of how to get it.
      root='',
      train='train.csv',
      eval='val.csv',
      how_to_get='',
      # Side of the photographs' square in units of the face oval's larger side: the examiner's tool
      # cuts faces alike.
      margin=1.45,
      # `people`: the folder is `root`; `eval` is a manifest (.csv) or another folder of people,
      # each a path of its own. If it is empty, this share of the people of `root` is held out.
      held_out=0.05,
      # `people`: a manifest (.csv) of further swaps among its people, and their share of training.
      list='',
      list_share=0.5,
      # `people`: how far a pasted face moves to its source's shape, least and most; (0, 0) keeps
      # the target's shape.
      shape_transfer=(0.2, 0.8),
      # `synthetic`, `people`: how many examples, of what side.
      train_examples=100_000,
      eval_examples=128,
      image_size=112,
      pristine_rate=0.1,
      # Show the ISM each forged image next to its target's photograph: the pair differs by the
      # paste alone, so that nothing else can tell the two.
      twins=True,
      workers=0,
      augmentation=dict(
        flip=True,
        crop=0.1,  # at most this much of the side
        probability=0.1,  # of each of the following, on the forged image
        colour=0.1,
        blur=0.8,
        noise=4.0,
        jpeg=(60, 95),
      ),
    )
  )


def _suite() -> ml_collections.ConfigDict:
  """What `--mode=eval` measures beyond `metrics.json`; `dfrec_jax.suite`, docs/evaluation.md."""
  return ml_collections.ConfigDict(
    dict(
      enabled=True,
      baselines=('telea', 'biharmonic', 'nearest'),
      nearest_examples=1_000,  # training photographs that `nearest` knows
      compare='',  # further checkpoints through the same suite: name=CHECKPOINT,...
      encoders='',  # further measures of identity: label=encoder:FILE,...
      # Files of weights; without them the figure is left out.
      lpips=dict(network='alex', features='', heads=''),
      inception='',
      landmarks=True,  # where the environment with MediaPipe is (`make landmarks`)
      robustness_examples=32,  # forged photographs that the curves are of; 0 leaves them out
      groups='',  # a CSV file of people: person,sex,skin_tone,...
      resamples=1_000,  # of the bootstrap over people
    )
  )


def _loss() -> ml_collections.ConfigDict:
  # The paper names the terms and publishes neither weights nor optimizer. These make the terms
  # that pixels alone cannot teach (identity, attributes) about as large as L_patch's gradient
  # once it has fallen to that of a blurred face.
  return ml_collections.ConfigDict(
    dict(
      weights=dict(
        identity=0.1,
        perceptual=0.1,
        attribute=0.05,
        patch=10.0,
        # Of the target as it is shown, for models with a refinement.
        refinement=0.0,
        structure=0.0,
        source=0.3,
        anchor=0.0,
        segmentation=0.5,
        detection=0.5,
      ),
      # Of a twin in the segmentation: a mask that hesitates misses the face, and to overlook a
      # paste is worse than to look at a pristine face.
      twin_segmentation=0.3,
      identity_encoder=dict(name='mobilefacenet', weights=''),
      perceptual_encoder=dict(name='vgg19', weights=''),
      encoder_dtype='float32',
      encoded_examples=0,  # of a batch, seen by the frozen encoders; 0 for all of it
    )
  )


def without_encoders(config: ml_collections.ConfigDict) -> None:
  """Switches off every term that needs a frozen encoder, and the identity metrics."""
  config.loss.weights.update(identity=0.0, perceptual=0.0, attribute=0.0)
  config.metric_encoder.weights = ''


def face_encoder() -> str:
  """Weights of MobileFaceNet for who names none: the usual file, or else the package's own."""
  usual = '../shared/encoders/mobilefacenet.npz'
  return usual if os.path.exists(usual) else FACE_ENCODER


def use_face_encoder(config: ml_collections.ConfigDict, weights: str) -> None:
  """Takes MobileFaceNet from a file for the identity terms and metrics; `none` does without.

  L_perc is on the same network's maps, since VGG19's weights come with no package; name VGG19 and
  its file in config.loss.perceptual_encoder to have the paper's.
  """
  config.loss.perceptual_encoder.update(name='mobilefacenet', weights=weights)
  if weights == 'none':
    without_encoders(config)
  else:
    config.loss.identity_encoder.weights = weights
    config.metric_encoder.weights = weights


def refine(config: ml_collections.ConfigDict) -> None:
  """Smooths the target's patches, which learns from the picture as it is shown.

  The squared error weighs about what L_patch does, which counts half of the image.
  """
  config.model.refinement = 32
  config.loss.weights.update(refinement=20.0, structure=0.2)


def train_small(config: ml_collections.ConfigDict, args: ml_collections.ConfigDict) -> None:
  """A small model on photographs of faces, on a CPU in under an hour, as `args` give its sizes."""
  config.steps = args.steps
  config.batch_size = args.batch_size
  # A small network that sees each photograph a few times underfits: it is not regularised.
  config.model.update(size=args.size, image_size=args.image_size, drop_connect=0.0, dropout=0.0)
  refine(config)
  # On a CPU the encoder costs as much as the model: half of the batch teaches it.
  config.loss.encoded_examples = args.batch_size // 2
  config.masking.end_step = args.steps // 3
  config.checkpoint_every = 300
  config.eval_every = 600
  use_face_encoder(config, args.encoder)
  if config.loss.weights.identity:
    # The true source is another photograph: without an anchor the recovered one becomes a pattern
    # that pleases the encoder. With 10 it still did, by another encoder's judgement.
    config.loss.weights.anchor = 50.0
  # Both terms would compare the same maps of the one encoder at hand; L_attr does.
  config.loss.weights.perceptual = 0.0


def finish(
  config: ml_collections.ConfigDict, args: ml_collections.ConfigDict
) -> ml_collections.ConfigDict:
  """Shrinks the configuration under `runlocal`; what the arguments give expressly stays."""
  if args.runlocal:
    given = config.copy_and_resolve_references()
    _shrink(config)
    if {'root', 'train', 'eval', 'list'} & set(args.given):
      config.data.update(kind=given.data.kind)
    if 'encoder' in args.given:
      config.loss.update(given.loss)
      config.metric_encoder.update(given.metric_encoder)
    fields = {
      'steps': 'steps',
      'batch_size': 'batch_size',
      'size': 'model.size',
      'image_size': 'model.image_size',
      'fsdp': 'mesh.fsdp',
      'tensor': 'mesh.tensor',
    }
    for name in args.given:
      if name in fields:
        config.update_from_flattened_dict({fields[name]: args[name]})
    config.data.image_size = config.model.image_size
  return config


def _shrink(config: ml_collections.ConfigDict) -> None:
  """`runlocal`: the same path through the program in seconds, on synthetic faces.

  Only sizes and numbers change; every option of the model is kept, except that it computes in
  float32: bfloat16 takes a CPU, which emulates it, a third longer to compile.
  """
  config.init_from = ''
  config.pretrained.update(ism='', efficientnet='', vit='')
  config.steps = 10
  config.batch_size = 8
  config.model.update(size='test', image_size=32, dtype='float32')
  config.model.refinement = min(config.model.refinement, 4)
  config.data.update(kind='synthetic', image_size=32, train_examples=64, eval_examples=8, workers=0)
  config.masking.end_step = 2
  config.optimizer.warmup_steps = 1
  config.log_every = 1
  config.checkpoint_every = 2
  config.eval_every = 10
  config.eval_examples = 8
  config.figure_rows = 4
  config.suite.update(nearest_examples=8, landmarks=False, robustness_examples=2, resamples=20)
  config.mesh.update(fsdp=1, tensor=1)
  without_encoders(config)
