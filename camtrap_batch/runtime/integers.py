"""`python -m camtrap_batch.runtime.integers MODEL SAMPLES OUT`: see `graphs.quantise`, which runs it."""

from __future__ import annotations

import logging
import sys

import numpy as np

from camtrap_batch.runtime.quiet import import_openvino


def main(path: str, samples: str, out: str) -> None:
    """Write the network of the file `path` in integers, with scales for the inputs in `samples`."""
    openvino = import_openvino()
    import nncf

    nncf.set_log_level(logging.ERROR)
    model = openvino.Core().read_model(path)
    inputs = np.load(samples)
    shape = model.inputs[0].get_partial_shape()
    at_once = shape[0].get_length() if shape[0].is_static else 1
    batches = [np.repeat(one[None], at_once, axis=0) for one in inputs]
    found = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    openvino.save_model(found, out, compress_to_fp16=False)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as problem:  # NNCF has its own errors for each step, and lets others through
        sys.exit(f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]}")
