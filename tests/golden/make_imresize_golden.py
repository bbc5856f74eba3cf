"""Write imresize.npz: parts of MATLAB's own low-resolution and bicubic images of Set5.

    python tests/golden/make_imresize_golden.py DATA

DATA/superres/set5_matlab_ref.npz has, for bird and woman, luma of 0 to 255 at the resolution of the original (gt),
reduced by imresize (lr) and enlarged again (bicubic). What is kept is a corner of each: whole images would be large.
"""

import sys
from pathlib import Path

import numpy as np

CORNER = 48
reference = np.load(Path(sys.argv[1]) / "superres" / "set5_matlab_ref.npz")
arrays = {}
for name, scale in (("bird", 2), ("woman", 2), ("bird", 4)):
    for kind, side in (("gt", CORNER + 8 * scale), ("lr", CORNER // scale + 4), ("bicubic", CORNER)):
        arrays[f"{name}_x{scale}_{kind}"] = reference[f"{name}_x{scale}_{kind}_y"][-side:, :side]
np.savez_compressed(Path(__file__).parent / "imresize.npz", **arrays)
