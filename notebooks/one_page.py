"""The whole program on one page: read images, build a network, train it, keep the best, test it.

    python one_page.py digits 3                 3 epochs on the scanned digits of scikit-learn
    python one_page.py cifar-10-batches-bin 25  25 epochs on CIFAR-10, a folder of this archive:
                                        https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz
"""
import sys
from collections import OrderedDict

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F

_, source, epochs = sys.argv if len(sys.argv) == 3 else sys.exit(__doc__)

if source == "digits":  # notebook 1
    small, labels = map(torch.tensor, load_digits(return_X_y=True))
    small = small.view(-1, 1, 8, 8) * 255 / 16  # 0..16 becomes 0..255
    images = F.interpolate(small, size=(32, 32), mode="bilinear").round().repeat(1, 3, 1, 1)
    rest, test = train_test_split(range(1797), stratify=labels, test_size=0.2, random_state=42)
else:  # notebook 1, exercise read_record: a label and three planes of 32x32, one byte each
    files = [f"{source}/data_batch_{i}.bin" for i in range(1, 6)] + [f"{source}/test_batch.bin"]
    records = [np.fromfile(file, np.uint8).reshape(-1, 3073) for file in files]
    records = torch.tensor(np.concatenate(records))
    labels = records[:, 0].long()
    images = records[:, 1:].view(-1, 3, 32, 32)
    rest, test = np.split(np.arange(len(labels)), [len(labels) * 5 // 6])
train, valid = train_test_split(rest, stratify=labels[rest], test_size=0.2, random_state=42)
device = "cuda" if torch.cuda.is_available() else "cpu"
images, labels = images.to(device).float() / 255, labels.to(device)  # [N, 3, 32, 32] in 0..1, [N]

def block(inputs, outputs, dropout=0.0, pool=False):  # notebook 3
    layers = [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
    layers += [nn.Dropout(dropout), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2) if pool else nn.Identity())

seeds = [int(np.random.SeedSequence([42, i]).generate_state(1)[0]) for i in range(int(epochs) + 1)]
torch.manual_seed(seeds[0])
model = nn.Sequential(OrderedDict(
    conv_block1=block(3, 96, pool=True),  # [N, 96, 15, 15]
    conv_block2=block(96, 256, pool=True),  # [N, 256, 7, 7]
    conv_block3=block(256, 384, dropout=0.1),
    conv_block4=block(384, 384, dropout=0.3),
    conv_block5=block(384, 256, dropout=0.1, pool=True), flatten=nn.Flatten(),  # [N, 256 * 3 * 3]
    dropout1=nn.Dropout(0.3), linear1=nn.Linear(256 * 3 * 3, 512), batch_norm=nn.BatchNorm1d(512),
    dropout2=nn.Dropout(0.1), relu=nn.ReLU(), linear2=nn.Linear(512, 10),
)).to(device, memory_format=torch.channels_last)

@torch.no_grad()
def evaluate(model, images, labels):  # notebook 5
    model.eval()
    logits = torch.cat([model(batch) for batch in images.split(250)])
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return F.cross_entropy(logits, labels).item(), accuracy

optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=4)
best = -1
for epoch in range(1, int(epochs) + 1):  # notebook 4
    torch.manual_seed(seeds[epoch])  # for dropout
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seeds[epoch]))
    model.train()
    total = 0
    for batch in torch.tensor(train)[order].to(device).split(16):
        loss = F.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    loss, accuracy = evaluate(model, images[valid], labels[valid])
    print(f"{epoch}: train {total / len(train):.6f}, valid {loss:.6f}, accuracy {accuracy:.4f}")
    schedule.step(loss)
    if accuracy > best:  # the rule of notebook 4
        best = accuracy
        torch.save(model.state_dict(), "best.pth")
model.load_state_dict(torch.load("best.pth", weights_only=True))
print(f"test accuracy {evaluate(model, images[test], labels[test])[1]:.4f}")
