#!/usr/bin/env python3
"""Reference numbers for the U-Net, computed by diffusers in float64.

Make a reference folder from a network configuration, or check existing folders
by computing them again from the weights and inputs they hold:

    tools/reference.py CONFIG.json OUT --tokens 40 --batch 2 --seed 1 [--timesteps 7,93]
    tools/reference.py --check DIR [DIR ..]

With --classifier the network has the attribute classifier at its bottleneck, and the
gradients are those of MSE + weight * its loss.

A folder holds config.json, weights.safetensors, io.safetensors (inputs, target,
output and the output of every part), grads.safetensors, adamw_step1.safetensors,
ema_step3.safetensors and meta.json (loss, norms, hyperparameters). Weights and
inputs are float32 numbers; everything is computed from them in float64 and
stored as float32. OUT may be the folder that CONFIG.json lies in.

Needs: pip install torch diffusers safetensors numpy
"""

import argparse
import json
import math
import shutil
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

ADAMW = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "ema_decay": 0.95}
STEPS = 3
SUMMED = [  # tensors whose sums meta.json keeps
    "conv_in.weight",
    "conv_in.bias",
    "mid_block.attentions.0.to_k.weight",
    "mid_block.resnets.1.conv2.weight",
    "conv_out.bias",
]
LIMIT = 1e-6  # --check: float64 on another machine, both sides rounded to float32


# ---- the network ---------------------------------------------------------------------


def network(config, attributes):
    """The network of `config`, with a classifier of so many attributes if there are any."""
    net = UNet2DConditionModel(**{k: v for k, v in config.items() if not k.startswith("_")})
    if attributes:
        net.classifier = torch.nn.Linear(config["block_out_channels"][-1], attributes)
    return net


def build(config, weights, dtype):
    """The network of `config` with these weights."""
    bias = weights.get("classifier.bias")
    net = network(config, 0 if bias is None else len(bias))
    net.load_state_dict(weights)
    return net.to(dtype)


def random_weights(config, attributes, generator):
    """Every tensor random, so that each one matters: matrices and kernels normal with
    variance 1/fan_in, biases 0.1 n, norm weights 1 + 0.2 n."""
    net = network(config, attributes)
    weights = {}
    for name, like in net.state_dict().items():
        n = torch.randn(like.shape, generator=generator)
        if like.ndim > 1:
            weights[name] = n / math.sqrt(like[0].numel())
        elif name.endswith("bias"):
            weights[name] = 0.1 * n
        else:
            weights[name] = 1 + 0.2 * n
    return weights


def random_inputs(config, tokens, batch, timesteps, generator):
    """Noise for the image, the tokens and the target."""
    size = config["sample_size"]

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "sample": noise(batch, config["in_channels"], size, size),
        "timesteps": timesteps,
        "encoder_hidden_states": noise(batch, tokens, config["cross_attention_dim"]),
        "target": noise(batch, config["out_channels"], size, size),
    }


def parts(net):
    """The modules whose outputs a reference keeps, by name."""
    named = {
        "sinusoid": net.time_proj,
        "time_embedding": net.time_embedding,
        "conv_in": net.conv_in,
        "mid_block.resnets.0": net.mid_block.resnets[0],
        "mid_block.attentions.0": net.mid_block.attentions[0],
        "mid_block": net.mid_block,
        "conv_norm_out": net.conv_norm_out,
    }
    named.update({f"down_blocks.{i}": block for i, block in enumerate(net.down_blocks)})
    named.update({f"up_blocks.{i}": block for i, block in enumerate(net.up_blocks)})
    return named


def forward(net, io, sample, tokens):
    """The network's output; with a token projection the flattened tokens feed it too."""
    labels = tokens.flatten(1) if net.config.class_embed_type else None
    return net(sample, io["timesteps"], encoder_hidden_states=tokens, class_labels=labels).sample


def classifier_loss(logits, labels, spec):
    """Mean over all elements of w * cross-entropy: w = 1 (bce), or floor + gain * the mean of the
    other attributes' errors under a Gaussian window, as a constant (ngmg)."""
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    if spec["loss"] == "bce":
        return cross_entropy.mean()
    at = torch.arange(logits.shape[1], dtype=logits.dtype)
    kernel = torch.exp(-((at[:, None] - at) ** 2) / (2 * spec["sigma"] ** 2)).fill_diagonal_(0)
    error = (labels - torch.sigmoid(logits)).abs().detach()
    weights = spec["floor"] + spec["gain"] * (error @ kernel.T) / kernel.sum(1)
    return (weights * cross_entropy).mean()


def gradients(net, io, dtype, spec, keep=None):
    """Losses (noise, classifier), output and the gradient of every tensor and input; `keep`
    collects `after.X`."""
    bottleneck = []
    hooks = [net.mid_block.register_forward_hook(lambda _module, _args, out: bottleneck.append(out))]
    for name, module in parts(net).items() if keep is not None else ():

        def hook(_module, _args, out, name=name):
            keep["after." + name] = (out[0] if isinstance(out, tuple) else out).detach().clone()

        hooks.append(module.register_forward_hook(hook))
    sample = io["sample"].to(dtype).requires_grad_()
    tokens = io["encoder_hidden_states"].to(dtype).requires_grad_()
    net.zero_grad()
    output = forward(net, io, sample, tokens)
    loss = (output - io["target"].to(dtype)).square().mean()
    losses, total = [loss.item()], loss
    if spec:
        logits = net.classifier(bottleneck[0].mean((2, 3)))
        extra = classifier_loss(logits, io["attributes"].to(dtype), spec)
        losses.append(extra.item())
        total = loss + spec["weight"] * extra
        if keep is not None:
            keep["after.classifier"] = logits.detach().clone()
    total.backward()
    for hook in hooks:
        hook.remove()
    grads = {name: p.grad.clone() for name, p in net.named_parameters()}
    grads["input.sample"] = sample.grad
    grads["input.encoder_hidden_states"] = tokens.grad
    return losses, output.detach(), grads


# ---- training ------------------------------------------------------------------------


def adamw(weights, grads, moments, k, h):
    """Step k = 1, 2, .. of AdamW with decoupled decay on every tensor, in place."""
    for name, w in weights.items():
        g = grads[name]
        m, v = moments.setdefault(name, (torch.zeros_like(w), torch.zeros_like(w)))
        m.mul_(h["beta1"]).add_(g, alpha=1 - h["beta1"])
        v.mul_(h["beta2"]).add_(g.square(), alpha=1 - h["beta2"])
        w.mul_(1 - h["lr"] * h["weight_decay"])
        m_hat, v_hat = m / (1 - h["beta1"] ** k), v / (1 - h["beta2"] ** k)
        w.sub_(h["lr"] * m_hat / (v_hat.sqrt() + h["eps"]))


def compute(config, weights, io, h, spec):
    """Everything a reference holds beyond its inputs: tensors by file, and meta numbers."""
    net = build(config, weights, torch.float64)
    params = {name: p.data for name, p in net.named_parameters()}
    ema = {name: w.clone() for name, w in params.items()}
    after, moments, losses = {}, {}, []
    for k in range(1, STEPS + 1):
        first = k == 1
        both, output, grads = gradients(net, io, torch.float64, spec, after if first else None)
        losses.append(both)
        adamw(params, grads, moments, k, h)
        for name, w in params.items():
            ema[name].mul_(h["ema_decay"]).add_(w, alpha=1 - h["ema_decay"])
        if first:
            first_output, first_grads = output, grads
            step1 = {name: w.clone() for name, w in params.items()}
            ema_sums = {name: ema[name].sum().item() for name in SUMMED}
    files = {
        "io": {**io, "output": first_output, **after},
        "grads": first_grads,
        "adamw_step1": step1,
        "ema_step3": ema,
    }
    noise, *classifier = zip(*losses)
    own = {name: g for name, g in first_grads.items() if name in params}
    meta = {
        "loss": noise[0],
        "loss_is": "mean over all elements of (output - target)^2",
        "loss_before_each_of_3_steps": list(noise),
        "grad_global_l2": math.sqrt(sum(g.square().sum().item() for g in own.values())),
        "grad_l2": {name: own[name].norm().item() for name in params},
        "adamw": h,
        "ema": "ema starts as the initial weights; after each step ema = decay*ema + (1-decay)*weights",
        "ema_step1_sum": ema_sums,
        "adamw_step3_sum": {name: params[name].sum().item() for name in SUMMED},
        "adamw_step3_l2": {name: w.norm().item() for name, w in params.items()},
    }
    if spec:
        meta["classifier"] = spec
        meta["classifier_loss_before_each_of_3_steps"] = list(classifier[0])
    return files, meta


def error_in(dtype, config, weights, io, files, loss, spec):
    """How far torch itself is from the float64 numbers when it stores and computes as `dtype`."""
    net = build(config, weights, dtype)
    (narrow_loss, *_), output, narrow = gradients(net, io, dtype, spec)
    names = [name for name in narrow if not name.startswith("input.")]
    grads = files["grads"]

    def flat(tensors):
        return torch.cat([tensors[name].double().flatten() for name in names])

    return {
        "output": relative(output, files["io"]["output"]),
        "loss": abs(narrow_loss - loss) / loss,
        "worst_grad_tensor": max(relative(narrow[name], grads[name]) for name in names),
        "all_grads": relative(flat(narrow), flat(grads)),
    }


def relative(got, want):
    """Distance in relative L2 norm."""
    got, want = got.double(), want.double()
    return ((got - want).norm() / want.norm().clamp_min(1e-30)).item()


# ---- make and check ------------------------------------------------------------------


def store(folder, name, tensors):
    narrow = {k: (t if t.dtype == torch.int64 else t.float()).contiguous() for k, t in tensors.items()}
    path = folder / f"{name}.safetensors"
    save_file(narrow, path, metadata={"format": "pt"})
    path.chmod(0o644)


def make(args):
    config = json.loads(Path(args.config).read_text())
    generator = torch.Generator().manual_seed(args.seed)
    if args.timesteps:
        timesteps = torch.tensor([int(t) for t in args.timesteps.split(",")])
    else:
        timesteps = torch.randint(0, 100, (args.batch,), generator=generator)
    if len(timesteps) != args.batch:
        sys.exit(f"--timesteps names {len(timesteps)} steps for a batch of {args.batch}")
    spec = None
    if args.classifier:
        spec = {"loss": args.classifier, "weight": args.classifier_weight}
        if args.classifier == "ngmg":
            spec |= {"floor": args.ngmg_floor, "gain": 1.0, "sigma": 5.0}
    weights = random_weights(config, args.tokens if spec else 0, generator)
    io = random_inputs(config, args.tokens, args.batch, timesteps, generator)
    if spec:
        io["attributes"] = torch.randint(0, 2, (args.batch, args.tokens), generator=generator)
    files, numbers = compute(config, weights, io, ADAMW, spec)
    meta = {
        "name": args.name or Path(args.out).name,
        "seed": args.seed,
        "tokens": args.tokens,
        "batch": args.batch,
        "params": sum(w.numel() for w in weights.values()),
        "tensors": len(weights),
        **numbers,
        **{
            f"torch_{str(dtype).removeprefix('torch.')}_relative_error": error_in(
                dtype, config, weights, io, files, numbers["loss"], spec
            )
            for dtype in (torch.float32, torch.bfloat16)
        },
        "versions": {"torch": torch.__version__, "diffusers": diffusers.__version__},
    }
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, tensors in {"weights": weights, **files}.items():
        store(out, name, tensors)
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    if out / "config.json" != Path(args.config):
        shutil.copyfile(args.config, out / "config.json")
    size = sum(f.stat().st_size for f in out.iterdir())
    print(f"{out}: {meta['params']:,} parameters in {meta['tensors']} tensors, {size:,} bytes")


def check(folder):
    """Computes the folder's numbers again and prints the worst differences."""
    folder = Path(folder)
    config, meta = (json.loads((folder / f).read_text()) for f in ("config.json", "meta.json"))
    held = load_file(folder / "io.safetensors")
    spec = meta.get("classifier")
    inputs = ["sample", "timesteps", "encoder_hidden_states", "target"] + ["attributes"] * bool(spec)
    io = {k: held[k] for k in inputs}
    weights = load_file(folder / "weights.safetensors")
    files, numbers = compute(config, weights, io, meta["adamw"], spec)
    print(f"{folder}: {sum(w.numel() for w in weights.values()):,} parameters, batch {len(io['sample'])}")
    good = True

    def line(what, error, where=""):
        nonlocal good
        good &= error <= LIMIT
        print(f"  {what:<44} {error:.2e} {where}{'' if error <= LIMIT else '  TOO LARGE'}")

    for name, tensors in files.items():
        stored = load_file(folder / f"{name}.safetensors")
        if stored.keys() != tensors.keys():
            sys.exit(f"{folder}/{name}.safetensors: other tensors: {sorted(stored.keys() ^ tensors.keys())}")
        worst = max(tensors, key=lambda k: relative(tensors[k], stored[k]))
        line(f"{name}: worst tensor, relative L2", relative(tensors[worst], stored[worst]), worst)
        worst = max(tensors, key=lambda k: (tensors[k] - stored[k]).abs().max())
        line(f"{name}: worst element, absolute", (tensors[worst] - stored[worst]).abs().max().item(), worst)
    for key, now in numbers.items():
        pairs = list(differences(now, meta[key]))
        if pairs:
            line(f"meta.{key}", max(pairs))
    return good


def differences(now, then):
    """Relative differences of the numbers in two equally shaped JSON values."""
    if isinstance(now, dict):
        if now.keys() != then.keys():
            sys.exit(f"meta.json: other keys: {sorted(now.keys() ^ then.keys())[:5]}")
        now, then = zip(*((now[k], then[k]) for k in now))
    if isinstance(now, (list, tuple)):
        for a, b in zip(now, then, strict=True):
            yield from differences(a, b)
    elif isinstance(now, str):
        if now != then:
            sys.exit(f"meta.json: {then!r} instead of {now!r}")
    elif isinstance(now, float):
        yield abs(now - then) / max(abs(then), 1e-3)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="?", help="a network's config.json")
    parser.add_argument("out", nargs="?", help="the folder to write")
    parser.add_argument("--tokens", type=int, default=40, help="feature tokens per image (L)")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timesteps", help="one per image, comma separated; default: random below 100")
    parser.add_argument("--classifier", choices=["bce", "ngmg"], help="add the attribute classifier with this loss")
    parser.add_argument("--classifier-weight", type=float, default=0.1)
    parser.add_argument("--ngmg-floor", type=float, default=1.0)
    parser.add_argument("--name", help="the name in meta.json; default: the folder's")
    parser.add_argument("--check", nargs="+", metavar="DIR", help="check these folders instead")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    if args.check:
        sys.exit(0 if all([check(folder) for folder in args.check]) else 1)
    if not args.out:
        parser.error("CONFIG.json and OUT, or --check DIR")
    make(args)


if __name__ == "__main__":
    main()
