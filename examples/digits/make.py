#!/usr/bin/env python3
"""Make the digits example: a small classifier exported by torch.onnx, and its calibration, training and test arrays.

  pip install torch onnx onnxscript scikit-learn numpy
  python3 make.py

Writes model.onnx, calib.npz, train.npz and test.npz beside this script. The same versions of the packages on the
same machine give the same files.
"""
from pathlib import Path

import numpy as np
import onnx
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

HERE = Path(__file__).resolve().parent
WIDTH = 512
EPOCHS = 120


class Classifier(torch.nn.Module):
    """64 - 512 - 512 - 10 with ReLU: far more weights than 8x8 digits need, as trained models often have."""

    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(64, WIDTH)
        self.fc2 = torch.nn.Linear(WIDTH, WIDTH)
        self.fc3 = torch.nn.Linear(WIDTH, 10)

    def forward(self, image):
        return self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(image)))))


def accuracy(model, image, labels):
    with torch.no_grad():
        return float((model(image).argmax(1) == labels).float().mean())


def train(image, labels):
    torch.manual_seed(0)
    model = Classifier()
    # Weight decay makes the layers redundant: what training does not use shrinks towards zero.
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1.0)
    steps = EPOCHS * (len(image) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(image))[: len(image) // 64 * 64]
        for rows in order.split(64):
            noisy = image[rows] + 0.1 * torch.randn(len(rows), 64)
            loss = torch.nn.functional.cross_entropy(model(noisy), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model, path):
    torch.onnx.export(
        model, (torch.zeros(2, 64),), path, dynamo=False, opset_version=17,
        input_names=["image"], output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    onnx.checker.check_model(str(path), full_check=True)


def main():
    torch.set_num_threads(1)
    digits = load_digits()
    image = (digits.data / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    split = train_test_split(image, labels, test_size=500, random_state=0, stratify=labels)
    train_x, test_x, train_y, test_y = split
    model = train(torch.from_numpy(train_x), torch.from_numpy(train_y))
    export(model, HERE / "model.onnx")
    np.savez_compressed(HERE / "calib.npz", image=train_x[:256])
    np.savez_compressed(HERE / "train.npz", image=train_x, labels=train_y)
    np.savez_compressed(HERE / "test.npz", image=test_x, labels=test_y)
    for layer in (model.fc1, model.fc2):
        s = torch.linalg.svdvals(layer.weight.detach()).numpy()
        tail = np.sqrt(np.cumsum((s ** 2)[::-1])[::-1] / (s ** 2).sum())
        print(list(layer.weight.shape), "relative error at rank", {r: round(float(tail[r]), 4) for r in (4, 8, 16, 32)})
    print(f"train {accuracy(model, torch.from_numpy(train_x), torch.from_numpy(train_y)):.4f}"
          f"  test {accuracy(model, torch.from_numpy(test_x), torch.from_numpy(test_y)):.4f}")


if __name__ == "__main__":
    main()
