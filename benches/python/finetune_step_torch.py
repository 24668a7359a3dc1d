"""Times one training step of MiniLM with 36 rewritten layers in PyTorch and in `tnq finetune`, and their peak memory.

    pip install torch numpy
    cargo build --release --bin tnq
    python benches/python/finetune_step_torch.py ../shared/models/minilm-l6.onnx --tnq target/release/tnq --threads 2

Both do the same: batch 32 of 32 tokens, the teacher's pass included; every dense layer is a pair of factors of rank 96
behind 4-bit fake quantization with learned steps (one for each factor), matched at 13 hidden states by relative error, at
the last one by cosine and by the matrix of cosines too; AdamW on factors, steps and biases, gradients clipped. PyTorch
has a BERT of the same shapes with random weights, its attention by `scaled_dot_product_attention`. Each runs in a
process of its own, in turns, for `--rounds` rounds. Prints one JSON object: the median seconds of a step by round, and
the largest resident size in megabytes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VOCABULARY, WIDTH, HEADS, INNER, LAYERS = 30522, 384, 12, 1536, 6
BATCH, LENGTH, RANK, BITS = 32, 32, 96, 4


def torch_steps(threads, steps):
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.set_num_threads(threads)
    torch.manual_seed(0)

    class FakeQuant(torch.autograd.Function):
        """LSQ: Esser et al. 2020, arXiv 1902.08153."""

        @staticmethod
        def forward(ctx, w, step, most):
            v = w / step
            q = v.clamp(-most, most).round()
            ctx.save_for_backward(v, q)
            ctx.most = most
            return q * step

        @staticmethod
        def backward(ctx, g):
            v, q = ctx.saved_tensors
            inside = v.abs() <= ctx.most
            step = (g * torch.where(inside, q - v, q)).sum() / (v.numel() * ctx.most) ** 0.5
            return g * inside, step, None

    class LowRank(nn.Module):
        def __init__(self, dense):
            super().__init__()
            u, s, v = torch.svd_lowrank(dense.weight.detach(), q=RANK)
            self.a, self.b = nn.Parameter(u * s.sqrt()), nn.Parameter((v * s.sqrt()).T.contiguous())
            self.most = 2 ** (BITS - 1) - 1
            self.steps = nn.ParameterList([nn.Parameter(w.detach().abs().max() / self.most) for w in (self.a, self.b)])
            self.bias = nn.Parameter(dense.bias.detach().clone())

        def forward(self, x):
            a, b = (FakeQuant.apply(w, s, self.most) for w, s in zip((self.a, self.b), self.steps))
            return F.linear(F.linear(x, b), a, self.bias)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
            self.up, self.down = nn.Linear(WIDTH, INNER), nn.Linear(INNER, WIDTH)
            self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

        def forward(self, x, states):
            split = lambda t: t.view(BATCH, LENGTH, HEADS, WIDTH // HEADS).transpose(1, 2)
            y = F.scaled_dot_product_attention(split(self.q(x)), split(self.k(x)), split(self.v(x)))
            x = self.n1(x + self.o(y.transpose(1, 2).reshape(BATCH, LENGTH, WIDTH)))
            states.append(x)
            x = self.n2(x + self.down(F.gelu(self.up(x))))
            states.append(x)
            return x

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(512, WIDTH)
            self.norm = nn.LayerNorm(WIDTH)
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))

        def forward(self, ids):
            x = self.norm(self.words(ids) + self.places.weight[:LENGTH])
            states = [x]
            for block in self.blocks:
                x = block(x, states)
            return states

    teacher = Encoder().requires_grad_(False)
    student = Encoder()
    student.load_state_dict(teacher.state_dict())
    student.requires_grad_(False)
    for block in student.blocks:
        for name, layer in list(block.named_children()):
            if isinstance(layer, nn.Linear):
                setattr(block, name, LowRank(layer))
    trained = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    pool = lambda x: F.normalize(x.mean(1), dim=-1)
    times = []
    for _ in range(steps):
        ids = torch.randint(VOCABULARY, (BATCH, LENGTH))
        start = time.perf_counter()
        with torch.no_grad():
            wanted = teacher(ids)
        found = student(ids)
        loss = sum(((s - t) ** 2).sum() / (t**2).sum() for s, t in zip(found, wanted))
        s, t = pool(found[-1]), pool(wanted[-1])
        loss = loss + 1 - (s * t).sum(1).mean() + ((s @ s.T - t @ t.T) ** 2).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def tokens(path, samples):
    import numpy as np

    ids = np.random.default_rng(0).integers(1, VOCABULARY, (samples, LENGTH))
    np.savez(path, input_ids=ids, attention_mask=np.ones_like(ids), token_type_ids=np.zeros_like(ids))


def measured(command, env=None):
    """The stdout of a process, and its largest resident size in megabytes."""
    process = subprocess.Popen([str(c) for c in command], stdout=subprocess.PIPE, env=env)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{' '.join(map(str, command))}: status {status}")
    return out, usage.ru_maxrss / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--tnq", type=Path, default=Path("target/release/tnq"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=60, help="at least 60: tnq evaluates after 20 of them, and the median is of the others")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--torch-steps", action="store_true", help="PyTorch alone, in this process")
    args = parser.parse_args()
    if args.torch_steps:
        print(json.dumps(torch_steps(args.threads, args.steps)))
        return
    rows = {"torch": [], "tnq": []}
    memory = {"torch": 0, "tnq": 0}
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        # More samples than the steps see: the teacher's values are then not kept but computed at every step.
        tokens(folder / "data.npz", BATCH * args.steps)
        student = folder / "student.onnx"
        options = ["--format", "low-rank", "--ranks", RANK, "--bits", BITS, "--layer", "embeddings=keep", "--quiet"]
        measured([args.tnq, "compress", args.model, "-o", student, *options])
        common = ["--threads", args.threads, "--steps", args.steps]
        for _ in range(args.rounds):
            line = [sys.executable, __file__, "--torch-steps", *common]
            out, size = measured(line, {**os.environ, "OMP_NUM_THREADS": str(args.threads)})
            rows["torch"].append(json.loads(out))
            memory["torch"] = max(memory["torch"], size)
            line = [args.tnq, "finetune", args.model, student, "-o", folder / "out.onnx", "--force", "--json", "--quiet"]
            out, size = measured([*line, "--data", folder / "data.npz", "--batch", BATCH, *common])
            rows["tnq"].append(json.loads(out)["finetune"]["step_seconds"])
            memory["tnq"] = max(memory["tnq"], size)
    ratio = statistics.median(rows["torch"]) / statistics.median(rows["tnq"])
    print(json.dumps({"threads": args.threads, "step_seconds": rows, "torch_over_tnq": ratio, "peak_mb": memory}, indent=1))


if __name__ == "__main__":
    main()
