#!/usr/bin/env python3
"""Train a convolutional classifier of 28x28 digits and export it as ONNX.

  pip install torch onnx numpy
  python3 make.py TRAIN.npz DEV.npz -o convnet.onnx

The arrays are `image`, float32 `[samples, 784]` in 0..1, and `labels`, int64. Three convolutions of 3x3 hold nearly all of
the weights. The same versions of the packages on the same machine give the same file.
"""
import argparse

import numpy as np
import torch
from torch.nn import functional as F

CHANNELS = (24, 48, 48)
EPOCHS = 12
BATCH = 100


class Classifier(torch.nn.Module):
    """Convolutions of 1, 24, 48 and 48 channels with ReLU, halved twice by maxima, then one dense layer."""

    def __init__(self):
        super().__init__()
        one, two, three = CHANNELS
        self.conv1 = torch.nn.Conv2d(1, one, 3, padding=1)
        self.conv2 = torch.nn.Conv2d(one, two, 3, padding=1)
        self.conv3 = torch.nn.Conv2d(two, three, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(three * 16, 10)

    def forward(self, image):
        x = image.reshape(-1, 1, 28, 28)
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = F.relu(self.conv3(x))
        return self.head(x.flatten(1))


def read(path):
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["image"]), torch.from_numpy(arrays["labels"])


def train(image, labels):
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    steps = EPOCHS * (len(image) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(image))[: len(image) // BATCH * BATCH]
        for rows in order.split(BATCH):
            x = image[rows].reshape(-1, 28, 28)
            # A shift of up to two pixels, the same for a batch.
            down, right = torch.randint(-2, 3, (2,)).tolist()
            x = torch.roll(x, (down, right), (1, 2)).reshape(-1, 784)
            loss = F.cross_entropy(model(x), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def export(model, path):
    torch.onnx.export(
        model,
        (torch.zeros(2, 784),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("train")
    parser.add_argument("dev")
    parser.add_argument("-o", "--output", default="convnet.onnx")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = train(*read(args.train))
    image, labels = read(args.dev)
    with torch.no_grad():
        right = (model(image).argmax(1) == labels).double().mean()
    print(f"accuracy on {args.dev}: {100 * right:.2f} %")
    export(model, args.output)


if __name__ == "__main__":
    main()
