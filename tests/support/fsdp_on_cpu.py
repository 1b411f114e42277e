"""train.py with FSDP over CPU processes, which PyTorch can do and Accelerate leaves out: it takes FSDP for GPUs only.

torchrun --nproc_per_node 2 -m tests.support.fsdp_on_cpu --fsdp full_shard ...
"""

from typing import Any

from accelerate.state import AcceleratorState, DistributedType

import train

_init = AcceleratorState.__init__


def _with_plugin(self: AcceleratorState, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None:
        self.fsdp_plugin = fsdp_plugin


if __name__ == "__main__":
    AcceleratorState.__init__ = _with_plugin
    AcceleratorState.distributed_type = property(
        lambda self: DistributedType.FSDP if "fsdp_plugin" in self.__dict__ else self.__dict__["distributed_type"],
        lambda self, value: self.__dict__.__setitem__("distributed_type", value),
    )
    train.run_command(train.main)
