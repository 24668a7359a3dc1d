"""Times one forward + backward step of a TT-matrix layer in PyTorch, the baseline of `benches/tn_qat.rs`.

    pip install torch numpy
    cargo build --release -p tn-qat --example tt_step
    python benches/python/tt_linear_torch.py --threads 2 --rust target/release/examples/tt_step

The layer is 1024 x 1024 as (4, 8, 8, 4)^2, batch 128. Several ways to compute it are timed and the
fastest one counts:

* `reconstruct`: the dense matrix by `torch.einsum`, then `F.linear`;
* `halves`: cores (0, 1) and (2, 3) merged, then two contractions with the batch (`matmul` on views);
* `einsum`: one `torch.einsum` over the input and all cores, path by opt_einsum when it is installed;
* `chain`: core after core from the right, each one `matmul` on views.

Each is a step as a training loop has it: forward, `backward` of a given output gradient, gradients of
the cores and of the input. With `--rust`, PyTorch and tn-qat take turns for `--rounds` rounds, so that both see the
same machine. Prints one JSON object: medians over the rounds in microseconds, and the ratio of the fastest of PyTorch's
ways to tn-qat.
"""

import argparse
import json
import statistics
import subprocess
import time

import torch
import torch.nn.functional as F

MODES = (4, 8, 8, 4)
BATCH = 128


def cores(rank, generator):
    ranks = [1, rank, rank, rank, 1]
    return [
        (torch.randn(ranks[k], m, m, ranks[k + 1], generator=generator) * 0.3).requires_grad_()
        for k, m in enumerate(MODES)
    ]


def merge(a, b):
    """[r, m, n, s], [s, m', n', t] -> [r, m m', n n', t]"""
    r, m, n, s = a.shape
    _, p, q, t = b.shape
    c = (a.reshape(r * m * n, s) @ b.reshape(s, p * q * t)).reshape(r, m, n, p, q, t)
    return c.permute(0, 1, 3, 2, 4, 5).reshape(r, m * p, n * q, t)


def reconstruct(x, g):
    w = merge(merge(g[0], g[1]), merge(g[2], g[3]))
    return F.linear(x, w.reshape(1024, 1024))


def reconstruct_einsum(x, g):
    w = torch.einsum("aijb,bklc,cmnd,dope->ikmojlnp", *g)
    return F.linear(x, w.reshape(1024, 1024))


def halves(x, g):
    left, right = merge(g[0], g[1]), merge(g[2], g[3])
    rank = left.shape[3]
    t = x.reshape(-1, 32) @ right.reshape(rank * 32, 32).T
    y = left.reshape(32, 32 * rank) @ t.reshape(-1, 32 * rank, 32)
    return y.reshape(-1, 1024)


def einsum(x, g):
    x = x.reshape(-1, *MODES)
    y = torch.einsum("zjlnp,aijb,bklc,cmnd,dope->zikmo", x, *g)
    return y.reshape(-1, 1024)


def chain(x, g):
    b = x.shape[0]
    t, rest = x.reshape(b * 256, 4, 1), 1
    for k in (3, 2, 1, 0):
        r, m, n, s = g[k].shape
        t = g[k].reshape(r * m, n * s) @ t.reshape(-1, n * s, rest)
        rest *= m
    return t.reshape(b, 1024)


WAYS = {f.__name__: f for f in (reconstruct, reconstruct_einsum, halves, einsum, chain)}


def step_time(way, rank, seconds):
    generator = torch.Generator().manual_seed(1)
    g = cores(rank, generator)
    x = torch.randn(BATCH, 1024, generator=generator).requires_grad_()
    dy = torch.randn(BATCH, 1024, generator=generator)

    def step():
        for p in [x, *g]:
            p.grad = None
        way(x, g).backward(dy)

    step()
    times, stop = [], time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times) < 5:
        begin = time.perf_counter()
        step()
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.7, help="per way and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rust", help="the built example `tt_step`")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for rank in (8, 16):
        x = torch.randn(3, 1024)
        g = [c.detach() for c in cores(rank, torch.Generator().manual_seed(2))]
        want = reconstruct(x, g)
        for way in WAYS.values():
            torch.testing.assert_close(way(x, g), want, rtol=1e-3, atol=1e-3)
    times = {f"rank {rank}": {} for rank in (8, 16)}
    for _ in range(args.rounds):
        for rank in (8, 16):
            for name, way in WAYS.items():
                times[f"rank {rank}"].setdefault(name, []).append(step_time(way, rank, args.seconds))
        if args.rust:
            out = subprocess.run([args.rust, str(args.threads)], check=True, capture_output=True, text=True)
            for rank, routes in json.loads(out.stdout).items():
                for route, micros in routes.items():
                    times[rank].setdefault(f"tn-qat {route}", []).append(micros)
    result = {"torch": torch.__version__, "threads": args.threads, "rounds": args.rounds}
    for rank, ways in times.items():
        medians = {name: round(statistics.median(values), 1) for name, values in ways.items()}
        if args.rust:
            medians["ratio"] = round(min(medians[w] for w in WAYS) / medians["tn-qat auto"], 2)
        result[rank] = medians
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
