#!/usr/bin/env python3
"""Draws pictures with the attributes asked for, from the folder that this file lies in.

    python sample.py --attributes "Smiling,-Male" --count 4 --out page.png
    python sample.py --check

Needs torch, diffusers and numpy. A minus forbids an attribute; those that are not listed come from training
pictures that agree with the list. --check compares the network's output with what gmmk predicted.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from PIL import Image  # comes with diffusers
from safetensors.torch import load_file  # likewise

FOLDER = Path(__file__).resolve().parent


def parse(text, mixture):
    """The attributes asked for: {number: 0 or 1}."""
    plain = lambda name: "_".join(name.lower().replace("_", " ").split())
    numbers = {plain(name): k for k, name in enumerate(mixture["attributes"])}
    wish = {}
    for item in filter(None, map(str.strip, text.split(","))):
        name = plain(item.removeprefix("-"))
        if name not in numbers:
            sys.exit(f"unknown attribute `{item}`: the names are {', '.join(mixture['attributes'])}")
        value = 0 if item.startswith("-") else 1
        if wish.setdefault(numbers[name], value) != value:
            sys.exit(f"`{item}` is asked for both with and without a minus: keep one of them")
    if wish and mixture["classes"]:
        if list(wish.values()) != [1]:
            sys.exit(f"expected exactly one class, found `{text}`")
        wish = {k: wish.get(k, 0) for k in numbers.values()}
    return wish


def choose(wish, count, mixture, rng):
    """Attributes [count, K]: rows of training pictures that agree best, with the wish on top."""
    rows = np.array([[int(digit) for digit in row] for row in mixture["rows"]], dtype=np.int64)
    if len(rows) == 0:
        rows = np.zeros((1, len(mixture["attributes"])), dtype=np.int64)
    wanted = list(wish)
    agreeing = (rows[:, wanted] == list(wish.values())).sum(axis=1)
    rows = rows[agreeing == agreeing.max()]
    rows = rows[rng.integers(len(rows), size=count)]
    rows[:, wanted] = list(wish.values())
    return rows


def tokens(attributes, mixture, rng):
    """Tokens [n, K, N] of attributes [n, K]: A_k (code_scale code_k + z_k), z from the mixture."""
    codes = np.array([[1.0 if sign == "+" else -1.0 for sign in code] for code in mixture["codes"]])
    shape = (len(attributes), *codes.shape)
    component = rng.choice(len(mixture["means"]), size=shape, p=mixture["weights"])
    z = np.array(mixture["means"])[component] + mixture["sigma"] * rng.standard_normal(shape)
    on = np.asarray(attributes)[:, :, None]
    return torch.tensor(on * (mixture["code_scale"] * codes + z), dtype=torch.float32)


@torch.no_grad()
def predict(unet, x, timestep, tokens):
    """The noise in x. Some networks read the tokens as class labels too."""
    labels = None if unet.class_embedding is None else tokens.flatten(1)
    return unet(x, timestep, encoder_hidden_states=tokens, class_labels=labels).sample


def draw(unet, scheduler, x, tokens, steps, generator=None):
    """Pictures in [-1, 1] from noise x, by `steps` steps of a scheduler of diffusers."""
    scheduler.set_timesteps(steps)
    # The noise that belongs to the clipped picture, as gmmk has it: DDPM's step never uses another.
    own = {"use_clipped_model_output": True} if isinstance(scheduler, DDIMScheduler) else {}
    for t in scheduler.timesteps:
        noise = predict(unet, x, t.expand(len(x)), tokens)
        x = scheduler.step(noise, t, x, generator=generator, **own).prev_sample
    return x


def to_bytes(pictures):
    """[n, 3, s, s] in [-1, 1] as bytes [n, s, s, 3]."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def page(pictures, columns=8):
    """Pictures side by side, two pixels apart."""
    size, columns = pictures.shape[1] + 2, min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    out = np.full((rows * size - 2, columns * size - 2, 3), 255, dtype=np.uint8)
    for i, picture in enumerate(pictures):
        y, x = i // columns * size, i % columns * size
        out[y : y + size - 2, x : x + size - 2] = picture
    return Image.fromarray(out)


def check(unet):
    """Largest difference from the noise that gmmk predicted, as a share of its size."""
    wanted = load_file(FOLDER / "check.safetensors")
    noise = predict(unet, wanted["sample"], wanted["timestep"].long(), wanted["encoder_hidden_states"])
    return ((noise - wanted["noise"]).abs().max() / wanted["noise"].square().mean().sqrt()).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--attributes", default="", metavar="LIST", help='such as "Smiling,-Male"')
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--out", default="page.png", metavar="PNG")
    parser.add_argument("--sampler", choices=["ddpm", "ddim"], default="ddpm")
    parser.add_argument("--steps", type=int, help="at most the T of training [default: T, at most 250]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--check", action="store_true", help="compare with what gmmk predicted")
    words = sys.argv[1:]
    if "--attributes" in words[:-1]:
        at = words.index("--attributes")
        words[at : at + 2] = ["=".join(words[at : at + 2])]  # or a minus at its start would be an option's
    args = parser.parse_args(words)
    unet = UNet2DConditionModel.from_pretrained(FOLDER, subfolder="unet", low_cpu_mem_usage=False).eval()
    if args.check:
        error = check(unet)
        print(f"largest difference from gmmk's noise: {error:.1e} of its size")
        sys.exit(0 if error < 1e-3 else "the network computes something else here")
    mixture = json.loads((FOLDER / "mixture.json").read_text())
    scheduler = (DDIMScheduler if args.sampler == "ddim" else DDPMScheduler).from_pretrained(FOLDER, subfolder="scheduler")
    most = scheduler.config.num_train_timesteps
    steps = args.steps or min(most, 250)
    if args.count < 1 or not 1 <= steps <= most:
        sys.exit(f"expected --count of at least 1 and --steps of 1 to {most}")
    rng, generator = np.random.default_rng(args.seed), torch.Generator().manual_seed(args.seed)
    attributes = choose(parse(args.attributes, mixture), args.count, mixture, rng)
    size = unet.config.sample_size
    x = torch.randn(args.count, unet.config.in_channels, size, size, generator=generator)
    pictures = draw(unet, scheduler, x, tokens(attributes, mixture, rng), steps, generator)
    page(to_bytes(pictures)).save(args.out)
    print(f"wrote {args.out}: {args.count} pictures")


if __name__ == "__main__":
    main()
