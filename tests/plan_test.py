"""Plans of TPU slices: what is read from a program's text. The compiler itself is not needed."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import ffpp
from dfrec_jax import sharding
from dfrec_jax.benchmark import (
  collectives,
  estimate,
  hlo,
  hlo_cost,
  hlo_memory,
  plan,
  plan_report,
  plan_table,
  step_plan,
  topologies,
)
from dfrec_jax.benchmark.chips import CHIPS
from dfrec_jax.errors import InputError

# What the compiler made for v5e:2x2 of six scanned layers, cut down by hand: a loop whose weights
# are divided over `fsdp` and gathered while a product runs, a gradient reduced over `data`, one
# reduced and divided over `fsdp`, an update in place, and a permutation.
PROGRAM = """
HloModule jit_step, is_scheduled=true

%slice_fused (p0: bf16[6,1024,512], p1: s32[]) -> bf16[1,1024,512] {
  %p0 = bf16[6,1024,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  ROOT %ds = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1), dynamic_slice_sizes={1}
}

%gather_start (p0: bf16[1,1024,512]) -> (bf16[1,1024,512], bf16[1,1024,1024]) {
  %p0 = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[1,1024,1024]{2,1,0} all-gather(%p0), channel_id=7, replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={2}, metadata={op_name="jit(train_step)/jvp(DFREC)/tirm/encoder/while"}
  ROOT %cc = (bf16[1,1024,512]{2,1,0}, bf16[1,1024,1024]{2,1,0:S(1)}) custom-call(%p0, %all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%product (p0: bf16[1024,1024], p1: bf16[1024,1024]) -> bf16[1024,1024] {
  %p0 = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = bf16[1024,1024]{1,0:T(8,128)(2,1)} convolution(%p0, %p1), dim_labels=bf_io->bf, metadata={op_name="jit(train_step)/jvp(DFREC)/tirm/encoder/while/body/dot_general"}
}

%gather_done (p0: bf16[1,1024,512], p1: bf16[1,1024,1024]) -> bf16[1,1024,1024] {
  %p0 = bf16[1,1024,512]{2,1,0} parameter(0)
  %p1 = bf16[1,1024,1024]{2,1,0} parameter(1)
  %all-gather.2 = bf16[1,1024,1024]{2,1,0} all-gather(%p0), channel_id=7, replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={2}
  ROOT %cc = bf16[1,1024,1024]{2,1,0:S(1)} custom-call(%p0, %p1, %all-gather.2), custom_call_target="AsyncCollectiveDone"
}

%update (p0: bf16[6,1024,1024], p1: bf16[1024,1024], p2: s32[]) -> bf16[6,1024,1024] {
  %p0 = bf16[6,1024,1024]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[1024,1024]{1,0:T(8,128)(2,1)} parameter(1)
  %p2 = s32[]{:T(128)S(6)} parameter(2)
  %b = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} bitcast(%p1)
  ROOT %dus = bf16[6,1024,1024]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%p0, %b, %p2)
}

%all-reduce-scatter (p0: f32[1024,1024]) -> f32[512,1024] {
  %p0 = f32[1024,1024]{1,0:T(8,128)} parameter(0)
  %all-reduce.3 = f32[1024,1024]{1,0} all-reduce(%p0), channel_id=9, replica_groups=[2,2]<=[4], to_apply=%add
  %z = s32[]{:T(128)} constant(0)
  ROOT %ds = f32[512,1024]{1,0} dynamic-slice(%all-reduce.3, %z), dynamic_slice_sizes={512,1024}
}

%body (state: (s32[], bf16[1024,1024], bf16[6,1024,512], bf16[6,1024,1024])) -> (s32[], bf16[1024,1024], bf16[6,1024,512], bf16[6,1024,1024]) {
  %state = (s32[]{:T(128)}, bf16[1024,1024]{1,0}, bf16[6,1024,512]{2,1,0}, bf16[6,1024,1024]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %x = bf16[1024,1024]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %w = bf16[6,1024,512]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=2
  %kept = bf16[6,1024,1024]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=3
  %part = bf16[1,1024,512]{2,1,0:T(8,128)(2,1)} fusion(%w, %i), kind=kLoop, calls=%slice_fused
  %start = (bf16[1,1024,512]{2,1,0}, bf16[1,1024,1024]{2,1,0:S(1)}) fusion(%part), kind=kCustom, calls=%gather_start
  %y = bf16[1024,1024]{1,0:T(8,128)(2,1)} fusion(%x, %x), kind=kOutput, calls=%product, metadata={op_name="jit(train_step)/jvp(DFREC)/tirm/encoder/while/body/dot_general"}
  %s0 = bf16[1,1024,512]{2,1,0} get-tuple-element(%start), index=0
  %s1 = bf16[1,1024,1024]{2,1,0:S(1)} get-tuple-element(%start), index=1
  %done = bf16[1,1024,1024]{2,1,0:S(1)} fusion(%s0, %s1), kind=kCustom, calls=%gather_done
  %kept.1 = bf16[6,1024,1024]{2,1,0:T(8,128)(2,1)} fusion(%kept, %y, %i), kind=kLoop, calls=%update
  ROOT %t = (s32[]{:T(128)}, bf16[1024,1024]{1,0}, bf16[6,1024,512]{2,1,0}, bf16[6,1024,1024]{2,1,0}) tuple(%i, %y, %w, %kept.1)
}

%condition (state: (s32[], bf16[1024,1024], bf16[6,1024,512], bf16[6,1024,1024])) -> pred[] {
  %state = (s32[]{:T(128)}, bf16[1024,1024]{1,0}, bf16[6,1024,512]{2,1,0}, bf16[6,1024,1024]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %bound = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

ENTRY %main (a: (s32[], bf16[1024,1024], bf16[6,1024,512], bf16[6,1024,1024]), g: f32[1024,1024]) -> f32[512,1024] {
  %a = (s32[]{:T(128)}, bf16[1024,1024]{1,0}, bf16[6,1024,512]{2,1,0}, bf16[6,1024,1024]{2,1,0}) parameter(0)
  %g = f32[1024,1024]{1,0:T(8,128)} parameter(1)
  %loop = (s32[]{:T(128)}, bf16[1024,1024]{1,0}, bf16[6,1024,512]{2,1,0}, bf16[6,1024,1024]{2,1,0}) while(%a), condition=%condition, body=%body
  %all-reduce.4 = f32[1024,1024]{1,0:T(8,128)} all-reduce(%g), channel_id=8, replica_groups={{0,2},{1,3}}, to_apply=%add, metadata={op_name="jit(train_step)/transpose(jvp(DFREC))/sirm/conv"}
  %send = (f32[1024,1024]{1,0}, f32[1024,1024]{1,0}, u32[]{:S(2)}) collective-permute-start(%g), channel_id=10, source_target_pairs={{0,1},{1,0}}
  %recv = f32[1024,1024]{1,0:T(8,128)} collective-permute-done(%send)
  ROOT %rs = f32[512,1024]{1,0:T(8,128)} fusion(%all-reduce.4), kind=kCustom, calls=%all-reduce-scatter
}
"""  # noqa: E501
MESH = jax.sharding.AbstractMesh((2, 2, 1), ('data', 'fsdp', 'tensor'))
MATRIX = 2 * 1024**2  # bytes of a bfloat16 matrix, and half of the FLOP of a row of its products
PRODUCT = 2 * 1024**3
V5E = CHIPS['v5e']


@pytest.fixture(scope='module')
def program():
  module = hlo.parse(PROGRAM)
  costs = hlo_cost.costs(module)
  seconds = estimate.roofline_seconds(costs, V5E, 'bfloat16')
  return module, costs, {c.kind: c for c in collectives.find(module, MESH, costs, seconds)}


def test_a_loop_counts_as_often_as_it_runs(program):
  module, costs, _ = program
  assert dict(module.scheduled()) == {'main': 1, 'body': 6}
  assert not module.unknown_loops()
  product = costs['body', 'y']
  assert (product.flops, product.times, product.part) == (PRODUCT, 6, 'tirm')
  assert product.bytes == 3 * MATRIX


def test_slices_and_updates_in_place_move_only_their_part(program):
  _, costs, _ = program
  # One layer of the stack, read and written; and one layer written after it was read.
  assert costs['body', 'part'].bytes == MATRIX
  assert costs['body', 'kept.1'].bytes == 2 * MATRIX


def test_vector_memory_costs_no_traffic():
  module = hlo.parse(PROGRAM.replace('T(8,128)(2,1)}', 'T(8,128)(2,1)S(1)}'))
  assert hlo_cost.costs(module)['body', 'y'].bytes == 0


def test_collectives_once_each_with_axes_bytes_and_overlap(program):
  found = program[2]
  assert sorted(found) == ['all-gather', 'all-reduce', 'collective-permute', 'reduce-scatter']
  gather, reduce, scatter = (found[k] for k in ('all-gather', 'all-reduce', 'reduce-scatter'))
  assert (gather.axes, gather.group, gather.times) == (('fsdp',), 2, 6)
  assert (gather.bytes, gather.sent, gather.part) == (MATRIX, MATRIX / 2, 'tirm')
  # Only the product runs meanwhile.
  assert gather.asynchronous and gather.hidden_s == PRODUCT / V5E.flops['bfloat16']
  assert (reduce.axes, reduce.sent, reduce.asynchronous) == (('data',), 2 * MATRIX, False)
  assert (scatter.axes, scatter.bytes, scatter.sent) == (('fsdp',), MATRIX, MATRIX)
  assert found['collective-permute'].sent == 2 * MATRIX
  # 1 MiB at 200 GB/s takes less than the product, at a slow link it takes longer.
  assert gather.exposed_s(V5E.ici_bandwidth) == 0
  slow = 10e9
  assert gather.exposed_s(slow) == pytest.approx(6 * (MATRIX / 2 / slow - gather.hidden_s))
  assert reduce.exposed_s(V5E.ici_bandwidth) == 2 * MATRIX / V5E.ici_bandwidth


@pytest.mark.parametrize(
  ('text', 'wanted'),
  [
    ('replica_groups={{0,4},{1,5}}', [[0, 4], [1, 5]]),
    ('replica_groups=[4,2]<=[2,4]T(1,0), x', [[0, 4], [1, 5], [2, 6], [3, 7]]),
    ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}, x", [[0, 1, 4, 5], [2, 3, 6, 7]]),
  ],
)
def test_replica_groups(text, wanted):
  np.testing.assert_array_equal(collectives.replica_groups(text), wanted)


def test_gathers_of_whole_parameters_outside_fsdp_are_named(program):
  gather = program[2]['all-gather']
  params = {'kernel': jax.ShapeDtypeStruct((6, 1024, 1024), jnp.float32)}
  assert step_plan.outside_fsdp([gather], params) == []
  gather = dataclasses.replace(gather, axes=('data',))
  assert 'bf16[1,1024,1024] over data' in step_plan.outside_fsdp([gather], params)[0]
  assert (
    step_plan.outside_fsdp([gather], {'bias': jax.ShapeDtypeStruct((1024,), jnp.float32)}) == []
  )


def test_every_array_of_a_combined_gather_counts_also_reshaped():
  start = (
    '((f32[512]{0}, bf16[256,3,16,64]{3,2,1,0}), (f32[1024]{0}, bf16[512,3,16,64]{3,2,1,0}), '
    'u32[]{:S(2)}) all-gather-start(%a, %b), replica_groups={{0,2},{1,3}}, dimensions={0}'
  )
  done = '(f32[1024]{0}, bf16[512,3,16,64]{3,2,1,0}) all-gather-done(%s)'
  module = hlo.parse(
    'ENTRY %m (a: x) -> x {\n  %a = f32[512]{0} parameter(0)\n'
    '  %b = bf16[256,3,16,64]{3,2,1,0} parameter(1)\n'
    f'  %s = {start}\n  ROOT %d = {done}\n}}\n'
  )
  (gather,) = collectives.find(module, MESH, {}, {})
  assert [str(array) for array in gather.arrays] == ['f32[1024]', 'bf16[512,3,16,64]']
  assert (gather.axes, gather.bytes) == (('data',), 4 * 1024 + 2 * 512 * 3072)
  shapes = lambda *dims: {'kernel': jax.ShapeDtypeStruct(dims, jnp.float32)}
  named = ['bf16[512,3,16,64] over data: ']
  assert step_plan.outside_fsdp([gather], shapes(6, 512, 3072)) == named
  # As many elements, and no side alike; and an activation of other size.
  assert step_plan.outside_fsdp([gather], shapes(1536, 1024)) == []
  assert step_plan.outside_fsdp([gather], shapes(512, 4096)) == []


def _convolution(shape, left, right, attributes):
  text = f'ENTRY %m (a: x) -> x {{\n  %a = {left} parameter(0)\n  %b = {right} parameter(1)\n'
  module = hlo.parse(f'{text}  ROOT %c = {shape} convolution(%a, %b), {attributes}\n}}\n')
  return hlo_cost.costs(module)['m', 'c'].flops


def test_a_kernel_costs_what_its_author_counted():
  module = hlo.parse("""
ENTRY %m (x: bf16[4,99,192]) -> bf16[4,99,64] {
  %x = bf16[4,99,192]{2,1,0} parameter(0)
  ROOT %k = bf16[4,99,64]{2,1,0} custom-call(%x), custom_call_target="tpu_custom_call", metadata={op_name="jit(s)/jvp(DFREC)/tirm/pallas_call"}, backend_config={"custom_call_config":{"body":"TUzv","cost_estimate":{"transcendentals":"10","flops":"2569","bytes_accessed":"51"}}}
}
""")  # noqa: E501
  cost = hlo_cost.costs(module)['m', 'k']
  assert (cost.flops, cost.flops_of) == (2569, {'tirm': 2569})
  assert cost.bytes == 4 * 99 * (192 + 64) * 2


def test_flop_of_convolutions_and_of_products_written_as_such():
  # 3x3 on 8x8, padded: 22 taps of each row and column are inside.
  padded = 'window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f'
  args = 'f32[5,8,8,16]', 'f32[5,8,8,4]', 'f32[3,3,4,16]'
  assert _convolution(*args, padded) == 2 * 5 * 4 * 16 * 22**2
  # Its gradient to a stride of 2: the input's holes are no work.
  holes = (
    'window={size=3x3 pad=1_2x1_2 lhs_dilate=2x2 rhs_reversal=1x1}, dim_labels=b01f_01oi->b01f'
  )
  args = 'f32[5,8,8,4]', 'f32[5,4,4,16]', 'f32[3,3,4,16]'
  assert _convolution(*args, holes) == 2 * 5 * 4 * 16 * 11**2
  # A product over a batch of 4, (4, 7, 3) x (4, 3, 9).
  batched = 'window={size=4 stride=3 lhs_dilate=4}, dim_labels=0bf_0io->0bf'
  args = 'f32[4,7,9]', 'f32[4,7,3]', 'f32[4,3,9]'
  assert _convolution(*args, batched) == 2 * 4 * 7 * 3 * 9


def test_padding_to_tiles_counts_in_memory(program):
  text = 'ENTRY %m (a: x) -> x {\n  ROOT %a = f32[4,32,3]{2,1,0:T(8,128)} parameter(0)\n}'
  (tall,) = hlo.parse(text).computations['m']['a'].arrays
  assert (tall.bytes, tall.padded_bytes) == (4 * 4 * 32 * 3, 4 * 4 * 32 * 128)
  largest = hlo_memory.largest_temporaries(program[0])[0]
  assert (largest['shape'], largest['bytes']) == ('bf16[6,1024,1024]', 6 * MATRIX)


def test_what_the_compiler_says_when_it_does_not_fit():
  said = (
    'RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. '
    'Exceeded hbm capacity by 4.75G.\n\n  Largest program allocations in hbm:\n\n'
    '  1. Size: 1.50G\n     Operator: op_name="jit(train_step)/jvp(DFREC)/sirm/conv"\n'
    '     Shape: bf16[64,224,224,32]{0,3,2,1:T(8,128)(2,1)}\n     Unpadded size: 196.00M\n'
  )
  refused = hlo_memory.out_of_memory(said)
  assert refused == {'used': 20.5 * 2**30, 'capacity': 15.75 * 2**30}
  (first,) = hlo_memory.refused_temporaries(said)
  assert first['bytes'] == 1.5 * 2**30 and first['unpadded'] == 196 * 2**20
  assert first['shape'] == 'bf16[64,224,224,32]' and first['op_name'].endswith('sirm/conv')
  assert hlo_memory.out_of_memory('INVALID_ARGUMENT: something else') is None


def test_the_largest_batch_is_on_the_line_through_two_plans():
  assert hlo_memory.largest_batch({32: 8e9, 64: 12e9}, 16e9) == 96
  assert hlo_memory.largest_batch({64: 20e9, 32: 12e9}, 16e9) == 48
  assert hlo_memory.largest_batch({32: 8e9}, 16e9) is None
  assert hlo_memory.largest_batch({48: 15.2e9, 64: 15.3e9}, 12.8e9) is None
  # Plans on both sides of the limit tell more than two beyond it.
  assert hlo_memory.largest_batch({24: 11.6e9, 32: 14.2e9, 64: 15.0e9}, 13.7e9) == 30


@pytest.mark.parametrize('spec', ['v5e', 'v9:2x2', 'v5e:4', 'v5e:2x2x2', 'v5p:4x4', 'v5e:0x4'])
def test_a_wrong_slice_is_said_in_one_sentence(spec):
  with pytest.raises(InputError, match=r'v5e|v5p') as error:
    topologies.parse_slice(spec)
  assert '\n' not in str(error.value)


def test_without_the_compiler_the_extra_is_named(monkeypatch):
  wanted = topologies.parse_slice('v5p:4x4x4')
  assert (wanted.chip.name, wanted.chips) == ('v5p', 64)
  monkeypatch.delenv('TPU_LIBRARY_PATH', raising=False)
  monkeypatch.setattr(topologies.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(InputError, match=r'dfrec_jax\[tpu-plan\]'):
    topologies.slice_devices(wanted)
  monkeypatch.setenv('TPU_LIBRARY_PATH', '/nowhere/libtpu.so')
  with pytest.raises(InputError, match=r'/nowhere/libtpu\.so.*tpu-plan'):
    topologies.slice_devices(wanted)


def _record(wanted, batch, step_s, total, **settings):
  """A plan as `step_plan.make_plan` answers it, of the program above."""
  module = hlo.parse(PROGRAM)
  costs = hlo_cost.costs(module)
  seconds = estimate.roofline_seconds(costs, wanted.chip, 'bfloat16')
  exchanged = collectives.find(module, MESH, costs, seconds)
  record = {
    'slice': wanted.spec,
    'chip': wanted.chip.name,
    'chips': wanted.chips,
    'size': 'L/16',
    'image_size': 224,
    'remat': 'full',
    'dtype': 'bfloat16',
    'parameters': 1e6,
    'batch': batch * wanted.chips,
    'batch_per_chip': batch,
    'mesh': {'data': wanted.chips // 2, 'fsdp': 2, 'tensor': 1},
    'encoders': ['vgg19'],
    'hbm': wanted.chip.hbm_bytes,
    'compile_s': 1.0,
    'effort': -1.0,
    'fits': True,
    'memory': {'state': 1e9, 'temporaries': total - 1e9, 'total': total},
    'counted': {'flops': 1e12, 'products': 1e12, 'bytes': 1e9},
    'parts': estimate.parts_table(costs, seconds, wanted.chip, 'bfloat16'),
    'model_flops': {'tirm': 1e12},
    'time': {'flops_s': 0.1, 'bytes_s': 0.1, 'exposed_s': 0.0, 'step_s': step_s, 'sum_s': step_s},
    'mfu': dict.fromkeys(('whole', 'whole_one_by_one', 'tirm', 'tirm_one_by_one'), 0.5),
    'collectives': [step_plan._exchange(c, wanted.chip) for c in exchanged],
    'gathers_outside_fsdp': [],
    'temporaries': hlo_memory.largest_temporaries(module),
    'unknown_loops': [],
  }
  return record | settings


def test_plans_are_kept_and_not_made_again(tmp_path, monkeypatch, capsys):
  made = []

  def make_plan(config, wanted, effort):
    made.append((wanted.spec, config.batch_size))
    return _record(wanted, config.batch_size // wanted.chips, 0.1, 8e9)

  monkeypatch.setattr(step_plan, 'make_plan', make_plan)
  config = ffpp.get_config('encoder=')
  for _ in range(2):
    plan.main('v5e:2x2,v5e:4x4', config=config, batch=[32], out=tmp_path)
  assert made == [('v5e:2x2', 128), ('v5e:4x4', 512)]
  assert len(list(tmp_path.iterdir())) == 2
  assert json.loads(next(tmp_path.iterdir()).read_text())['batch_per_chip'] == 32
  said = capsys.readouterr().out
  assert 'all-gather' in said and '| v5e:4x4 | 8x2x1 | full | 32 |' in said
  # Another mesh is another program.
  config.mesh.fsdp = 2
  plan.main('v5e:2x2', config=config, batch=[32], out=tmp_path)
  assert len(made) == 3
  # So is what the compiler makes with more effort.
  plan.main('v5e:2x2', config=config, batch=[32], effort=0.0, out=tmp_path)
  assert len(made) == 4


def test_the_table_tells_scaling_and_what_fits():
  small, large = (topologies.parse_slice(s) for s in ('v5e:2x2', 'v5e:16x16'))
  records = [
    _record(small, 64, 0.10, 8e9),
    _record(large, 64, 0.125, 8e9),
    _record(large, 128, 0, 14e9, fits=False, capacity=13e9, temporaries=[]),
  ]
  assert plan_table.scaling_efficiency(records[1], records) == 0.8
  # 0.8 x 16 GiB on the line from 64 at 8 GB to 128 at 14 GB.
  spare = 0.8 * 16 * 2**30 - 8e9
  assert plan_table.largest_batch(records[1], records) == 64 + int(spare // (6e9 / 64))
  rows = plan_table.table(records).splitlines()
  assert len({row.count('|') for row in rows}) == 1
  assert '80.0%' in rows[3] and 'does not fit' in rows[4]
  assert 'It does not fit' in plan_report.describe(records[2])


def test_the_training_step_lowers_for_cuda():
  config = ffpp.get_config('size=test+ism_depth=0.1+detail_channels=,image_size=32,batch_size=4')
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:1])
  step, arguments, _, encoders = step_plan.abstract_step(config, mesh)
  assert encoders == ['mobilefacenet', 'vgg19']
  with jax.set_mesh(mesh):
    exported = jax.export.export(step, platforms=['cuda'])(*arguments)
  assert exported.platforms == ('cuda',)
  # Depthwise convolutions are convolutions there, not a CPU's sums of shifted products.
  text = exported.mlir_module()
  assert any(f'feature_group_count = {count}' in text for count in range(2, 64))
