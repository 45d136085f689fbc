"""What the vendors publish of accelerators: peaks, memory, links."""

import dataclasses

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """One accelerator, as its vendor publishes it.

  Attributes:
    name: as in `CHIPS`.
    flops: peak FLOP/s of dense products by the type of their inputs. `float32` is what JAX makes of
      float32 at its default precision: one pass of bfloat16 on a TPU, TF32 on a GPU.
    hbm_bytes: memory.
    hbm_bandwidth: of that memory, bytes/s.
    ici_bandwidth: a TPU's links to its neighbours, bytes/s of all of them in one direction; 0 for
      GPUs.
    nvlink_bandwidth: a GPU's links, bytes/s of all of them in one direction; 0 for TPUs.
    source: public page of these figures.
  """

  name: str
  flops: dict[str, float]
  hbm_bytes: float
  hbm_bandwidth: float
  ici_bandwidth: float
  source: str
  nvlink_bandwidth: float = 0.0


def _tpu(name, peak, hbm_bytes, hbm_bandwidth, ici_bandwidth, source):
  flops = {'bfloat16': peak, 'float32': peak}
  return Chip(name, flops, hbm_bytes, hbm_bandwidth, ici_bandwidth, source)


def _gpu(name, peak, hbm_bytes, hbm_bandwidth, nvlink_bandwidth, source):
  flops = {'bfloat16': peak, 'float32': peak / 2}
  return Chip(name, flops, hbm_bytes, hbm_bandwidth, 0.0, source, nvlink_bandwidth)


_DOCS = 'https://docs.cloud.google.com/tpu/docs/'
_GIB = 2.0**30

# Google gives both directions of a chip's links together; here is half of it. Its GB of memory are
# GiB: of the 16 of a v5e the compiler uses 15.75 GiB. A GPU's figures are those of the SXM module
# with the largest memory, without sparsity.
CHIPS = {
  chip.name: chip
  for chip in (
    # The links (six of 50 GB/s): Jouppi et al., arXiv 2304.01433, table 4.
    _tpu('v4', 275e12, 32 * _GIB, 1200e9, 300e9, _DOCS + 'v4'),
    _tpu('v5e', 197e12, 16 * _GIB, 819e9, 200e9, _DOCS + 'v5e'),
    _tpu('v5p', 459e12, 95 * _GIB, 2765e9, 600e9, _DOCS + 'v5p'),
    _tpu('v6e', 918e12, 32 * _GIB, 1600e9, 400e9, _DOCS + 'v6e'),
    _gpu('A100', 312e12, 80e9, 2039e9, 300e9, 'https://www.nvidia.com/en-us/data-center/a100/'),
    _gpu('H100', 989.4e12, 80e9, 3350e9, 450e9, 'https://www.nvidia.com/en-us/data-center/h100/'),
    _gpu('H200', 989.4e12, 141e9, 4800e9, 450e9, 'https://www.nvidia.com/en-us/data-center/h200/'),
  )
}

# Beginnings of JAX's `device_kind`. Modules of lower clocks or slower memory (PCIe, 40 GB) are not
# among them.
_KINDS = {
  'TPU v4': 'v4',
  'TPU v5 lite': 'v5e',
  'TPU v5e': 'v5e',
  'TPU v5p': 'v5p',
  'TPU v5': 'v5p',
  'TPU v6 lite': 'v6e',
  'TPU v6e': 'v6e',
  'NVIDIA A100-SXM4-80GB': 'A100',
  'NVIDIA H100 80GB HBM3': 'H100',
  'NVIDIA H200': 'H200',
}


def chip_of(device: jax.Device) -> Chip | None:
  """The chip that a device is (a v4 or v5p device is a whole chip); None for any other."""
  known = (name for kind, name in _KINDS.items() if device.device_kind.startswith(kind))
  name = next(known, None)
  return CHIPS[name] if name else None
