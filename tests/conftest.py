"""Before anything is imported."""

import os
import shutil

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton, whose kernels are interpreted then, looks for it when it is imported
