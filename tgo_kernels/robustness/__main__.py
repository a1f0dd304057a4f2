"""How robust a model is, in one table.

    python -m tgo_kernels.robustness MODEL.py:factory --weights weights.pt --data images.npz [--noise on]

``factory()`` returns the model. ``--data`` is a NumPy file with ``images`` [N, C, H, W], in [0, 1] or bytes, and
``labels`` [N]. ``--record`` is written after each attack, and gone on with where it is there.
"""

import argparse
import importlib.util
import pickle
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tgo_kernels.robustness.attacks import EPS
from tgo_kernels.robustness.checklist import checklist
from tgo_kernels.robustness.evaluation import evaluate
from tgo_kernels.robustness.suite import EFFORTS, NUMBERS
from tgo_kernels.robustness.victim import Victim


def made(where: str, weights: Path | None) -> nn.Module | Victim:
    """The model of ``FILE.py:factory``, with these weights: a state_dict, or a checkpoint that has one as "model"."""
    file, _, name = where.rpartition(":")
    if not file or not Path(file).is_file():
        raise ValueError(f"the model must be FILE.py:factory, got {where!r}")
    sys.path.insert(0, str(Path(file).resolve().parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not callable(factory := getattr(module, name, None)):
        raise ValueError(f"{file} must have a function {name!r}")
    model: Any = factory()
    if weights is not None:
        try:
            state = torch.load(weights, map_location="cpu")
        except pickle.UnpicklingError as error:
            raise ValueError(f"{weights} must be of torch.save(model.state_dict(), ...), no whole model") from error
        inner = model.model if isinstance(model, Victim) else model
        inner.load_state_dict(state["model"] if isinstance(state.get("model"), dict) else state)
    return model


def loaded(path: Path, count: int | None) -> tuple[Tensor, Tensor]:
    with np.load(path) as file:
        if missing := {"images", "labels"} - set(file.files):
            raise ValueError(f"{path} must have images and labels; {', '.join(sorted(missing))} is missing")
        images, labels = file["images"][:count], file["labels"][:count]
    scaled = images.astype(np.float32) / 255 if images.dtype == np.uint8 else images.astype(np.float32)
    return torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tgo_kernels.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="FILE.py:factory")
    parser.add_argument("--weights", type=Path, help="of torch.save")
    parser.add_argument(
        "--twin",
        action="append",
        default=[],
        metavar="FILE.py:factory",
        help="a trained model, with its weights in it, that examples are made on too (transfer); may be given again",
    )
    parser.add_argument("--data", type=Path, required=True, help="an .npz file with images and labels")
    parser.add_argument("--images", type=int, help="the first so many; default: all")
    parser.add_argument("--eps", type=float, default=255 * EPS, help="times 1/255; default: %(default)g")
    parser.add_argument("--noise", choices=("on", "off"), help="default: as the model has it in eval()")
    parser.add_argument("--effort", choices=EFFORTS, default="standard", help="default: %(default)s")
    for field in NUMBERS:
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, help="instead of the effort's")
    parser.add_argument("--steps", type=int, help="time steps, where they are not inside the model")
    parser.add_argument("--record", type=Path, help="a JSON file")
    parser.add_argument("--attacks", nargs="+", metavar="NAME", help="these alone")
    parser.add_argument("--batch", type=int, default=100, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    return parser


def main(argv: list[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    try:
        model = made(options.model, options.weights)
        images, labels = loaded(options.data, options.images)
        mine = {field.name: getattr(options, field.name) for field in NUMBERS}
        effort = replace(EFFORTS[options.effort], **{name: value for name, value in mine.items() if value is not None})
        twins = [made(each, None) for each in options.twin]
        outcome = evaluate(
            model,
            images,
            labels,
            eps=options.eps / 255,
            noise=None if options.noise is None else options.noise == "on",
            effort=effort,
            record=options.record,
            twin=twins,
            steps=options.steps,
            attacks=options.attacks,
            batch=options.batch,
            seed=options.seed,
        )
    except (ValueError, TypeError, ImportError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(outcome)
    print("\nSigns of masked gradients:")
    for name, passed in checklist(outcome).items():
        print(f"  {'pass' if passed else 'FAIL'}  {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
