"""Has torchvision's wheel imported beside a CPU build of torch.

The package index has the wheel that is built for CUDA: its compiled operators want CUDA's libraries, and without them
the modules that say more of these operators fail. They are left out: no image processor uses an operator. PyTorch's own
index, which has wheels for CPUs, may be out of reach.
"""

import sys
import types

for name in ("_meta_registrations", "_autograd_registrations"):
    sys.modules[f"torchvision.{name}"] = types.ModuleType(f"torchvision.{name}")
