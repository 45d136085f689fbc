"""Tensors of models trained here that the published networks lack, in PyTorch's manner of naming.

Rows for the tables of `dfrec_jax.convert.ism` and `tirm`. The SIRM has no others. Only numpy is
needed.
"""

from dfrec_jax.convert import layout


def detail_branch() -> layout.Table:
  """The ISM's `DetailBranch`: of models whose size has `detail_channels`."""
  # The stages at strides 1 and 2 have one convolution, the coarser ones two.
  names = ['0_0', '1_0', *(f'{stage}_{i}' for stage in (2, 3, 4) for i in (0, 1)), 'fuse', 'fine']
  rows = {}
  for name in names:
    rows |= layout.conv(f'detail.conv_{name}', f'detail/conv_{name}')
    rows |= layout.batch_norm(f'detail.norm_{name}', f'detail/norm_{name}')
  return {
    **rows,
    **layout.conv('detail.mask_head', 'detail/mask_head', bias=True),
    **layout.dense('detail.class_head', 'detail/class_head'),
  }


def refinement() -> layout.Table:
  """The TIRM's `Refinement`."""
  names = ('fine_1', 'fine_2', 'coarse_1', 'coarse_2', 'conv_up', 'join', 'output')
  rows = {}
  for name in names:
    rows |= layout.conv(f'refinement.{name}', f'refinement/{name}', bias=True)
  return rows


def target_decoder(fusion: str, forged_tokens: bool) -> layout.Table:
  """What the TIRM's decoder has more with fusion `add` or `sequence`, and with forged tokens."""
  rows = {}
  if forged_tokens:
    rows |= layout.dense('decoder.forged_embedding', 'forged_embedding')
  if fusion != 'concat':
    rows |= layout.dense('decoder.target_projection', 'target_projection')
  if fusion == 'sequence':
    rows |= layout.same('decoder.target_positions', 'target_positions')
  return rows
