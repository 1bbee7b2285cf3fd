#!/usr/bin/env python3
"""Reference numbers for DPM-Solver++ 2M, computed by diffusers' DPMSolverMultistepScheduler.

    tools/reference-dpm.py tests/reference/dpm.json            write the file
    tools/reference-dpm.py --check tests/reference/dpm.json    compute it again and compare

The scheduler has the settings that `gmmk export --diffusers` writes (for DDPM, so thresholding at 1 takes the
place of clip_sample). It walks from a fixed vector along the steps of gmmk and along its own ("trailing") ones,
15 and 25 of them, for both of the paper's schedules. The noise is that of the exact denoiser of four normal
distributions, so no network is needed. diffusers computes in float32: the numbers are its code's where float64 stands
in that place, and must be as near to what it computes as float32 can be. `lu` is its own choice of steps
even in lambda.

Needs: pip install torch diffusers
"""

import argparse
import json
import math

import numpy as np
import torch
from diffusers.schedulers import scheduling_dpmsolver_multistep as module

MEANS, DEVIATIONS = [0.9, -0.4, 0.1, 0.0], [0.3, 0.5, 0.05, 0.8]
START = [1.3, -0.7, 0.25, -2.1]
SCHEDULES = {"constant:0.06:100": (0.06, 0.06, 100), "linear:0.0001:0.02:1000": (1e-4, 0.02, 1000)}
LIMIT = 1e-12  # --check: float64 on another machine
NARROW = 1e-5  # between float64 and float32


class Wide:
    """A module whose float32 is float64."""

    def __init__(self, inner):
        self.inner, self.float32 = inner, inner.float64

    def __getattr__(self, name):
        return getattr(self.inner, name)


def alpha_bar(schedule):
    first, last, t_max = SCHEDULES[schedule]
    return np.cumprod(1 - np.linspace(first, last, t_max))


def even_in_lambda(schedule, steps):
    """Indices of the steps nearest to even ones of lambda, no two the same, from the noisiest on."""
    ab = alpha_bar(schedule)
    lambdas = (np.log(ab) - np.log1p(-ab)) / 2
    path = []
    for i, wanted in enumerate(np.linspace(lambdas[0], lambdas[-1], steps)):
        nearest = int(np.argmin(np.abs(lambdas - wanted)))
        lowest = path[-1] + 1 if path else 0
        path.append(min(max(nearest, lowest), len(ab) - steps + i))
    return path[::-1]


def solver(schedule, **more):
    first, last, t_max = SCHEDULES[schedule]
    return module.DPMSolverMultistepScheduler(
        num_train_timesteps=t_max, beta_schedule="linear", beta_start=first, beta_end=last,
        prediction_type="epsilon", algorithm_type="dpmsolver++", solver_order=2, **more,
    )  # fmt: skip


def walk(schedule, path, clip, kind):
    """The vector before every step and at the end."""
    scheduler = solver(schedule, thresholding=clip, sample_max_value=1.0)
    scheduler.set_timesteps(timesteps=path)
    ab = alpha_bar(schedule)
    picture = (1, len(START), 1, 1)  # channels are what thresholding reads them as
    x, mean, deviation = (torch.tensor(row, dtype=kind).reshape(picture) for row in (START, MEANS, DEVIATIONS))
    seen = [x]
    for t in scheduler.timesteps:
        signal, noise = math.sqrt(ab[t]), math.sqrt(1 - ab[t])
        eps = noise * (x - signal * mean) / (ab[t] * deviation**2 + 1 - ab[t])
        x = scheduler.step(eps, t, x).prev_sample
        seen.append(x)
    return [row.flatten().tolist() for row in seen]


def case(schedule, steps, spacing, clip):
    path = even_in_lambda(schedule, steps)
    if spacing == "trailing":
        scheduler = solver(schedule, timestep_spacing="trailing")
        scheduler.set_timesteps(steps)
        path = scheduler.timesteps.tolist()
    narrow = walk(schedule, path, clip, torch.float32)
    module.torch, module.np = Wide(torch), Wide(np)
    wide = walk(schedule, path, clip, torch.float64)
    module.torch, module.np = torch, np
    if not 0 < np.abs(np.subtract(wide, narrow)).max() < NARROW:
        raise SystemExit("reference-dpm: float64 in the place of float32 gives other numbers")
    return {"schedule": schedule, "spacing": spacing, "clip": clip, "t": [t + 1 for t in path], "x": wide}


def lu(schedule, steps):
    scheduler = solver(schedule, use_lu_lambdas=True)
    scheduler.set_timesteps(steps)
    lambdas = -torch.log(scheduler.sigmas[:-1].double())
    return {"schedule": schedule, "t": [int(t) + 1 for t in scheduler.timesteps], "lambda": lambdas.tolist()}


def document():
    both = [(schedule, steps) for schedule in SCHEDULES for steps in (15, 25)]
    return {
        "means": MEANS,
        "deviations": DEVIATIONS,
        "cases": [case(*one, spacing, clip) for one in both for spacing in ("lambda", "trailing") for clip in (False, True)],
        "lu": [lu(*one) for one in both],
    }


def numbers(value):
    if isinstance(value, dict):
        return [x for inner in value.values() for x in numbers(inner)]
    if isinstance(value, list):
        return [x for inner in value for x in numbers(inner)]
    return [] if isinstance(value, str) else [float(value)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    made = document()
    if args.check:
        with open(args.file) as file:
            kept = numbers(json.load(file))
        made = numbers(made)
        apart = max((abs(a - b) for a, b in zip(made, kept, strict=True)), default=math.inf)
        print(f"{args.file}: {len(kept)} numbers, {apart:.1e} apart at most")
        raise SystemExit(not apart <= LIMIT)
    lists = [f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, made.pop(name))) + "\n ]" for name in ("cases", "lu")]
    with open(args.file, "w") as file:
        file.write(json.dumps(made)[:-1] + ",\n" + ",\n".join(lists) + "\n}\n")


if __name__ == "__main__":
    main()
