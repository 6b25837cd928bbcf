"""The whole program on one page: read images, build a network, train it, keep the best, test it.

    python one_page.py digits 3                 3 epochs on the scanned digits of scikit-learn
    python one_page.py cifar-10-batches-bin 25  25 epochs on CIFAR-10, a folder of this archive:
                                        https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"""
import sys
from collections import OrderedDict
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

if len(sys.argv) != 3:
    sys.exit(__doc__)
source, epochs = sys.argv[1], int(sys.argv[2])
if source == "digits":  # notebook 1
    digits = load_digits()
    labels = torch.tensor(digits.target)
    small = torch.tensor(digits.images)[:, None] * 255 / 16  # [1797, 1, 8, 8]; 0..16 becomes 0..255
    images = nn.functional.interpolate(small, (32, 32), mode="bilinear").round().repeat(1, 3, 1, 1)
    rest, test = train_test_split(range(1797), stratify=labels, test_size=0.2, random_state=42)
else:  # notebook 1, exercise read_record: a label and three planes of 32x32, one byte each
    files = [f"{source}/data_batch_{i}.bin" for i in range(1, 6)] + [f"{source}/test_batch.bin"]
    records = np.concatenate([np.fromfile(file, np.uint8) for file in files]).reshape(-1, 3073)
    labels = torch.tensor(records[:, 0]).long()
    images = torch.tensor(records[:, 1:]).view(-1, 3, 32, 32)
    rest, test = np.split(np.arange(len(labels)), [len(labels) * 5 // 6])  # five files, and one
train, valid = train_test_split(rest, stratify=labels[rest], test_size=0.2, random_state=42)
device = "cuda" if torch.cuda.is_available() else "cpu"
images, labels = images.to(device).float() / 255, labels.to(device)  # [N, 3, 32, 32] in 0..1, [N]

def block(inputs, outputs, dropout, *pooling):  # notebook 3; pooling: one layer, or none
    conv = nn.Conv2d(inputs, outputs, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.Dropout(dropout), nn.ReLU(), *pooling)

seeds = [int(np.random.SeedSequence([42, i]).generate_state(1)[0]) for i in range(epochs + 1)]
torch.manual_seed(seeds[0])  # for the first weights
layers = OrderedDict()
layers["conv_block1"] = block(3, 96, 0.0, nn.MaxPool2d(3, stride=2))  # [N, 96, 15, 15]
layers["conv_block2"] = block(96, 256, 0.0, nn.MaxPool2d(3, stride=2))  # [N, 256, 7, 7]
layers["conv_block3"] = block(256, 384, 0.1)
layers["conv_block4"] = block(384, 384, 0.3)
layers["conv_block5"] = block(384, 256, 0.1, nn.MaxPool2d(3, stride=2))  # [N, 256, 3, 3]
layers["flatten"] = nn.Sequential(nn.Flatten(), nn.Dropout(0.3))  # [N, 2304]
layers["linear1"] = nn.Linear(2304, 512)
layers["batch_norm"] = nn.BatchNorm1d(512)
layers["relu"] = nn.Sequential(nn.Dropout(0.1), nn.ReLU())
layers["linear2"] = nn.Linear(512, 10)
model = nn.Sequential(layers).to(device, memory_format=torch.channels_last)

@torch.no_grad()
def evaluate(images, labels):  # notebook 5
    model.eval()
    logits = torch.cat([model(batch) for batch in images.split(250)])
    accuracy = (logits.argmax(dim=1) == labels).double().mean().item()
    return nn.functional.cross_entropy(logits, labels).item(), accuracy

optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=4)
best = -1
for epoch in range(1, epochs + 1):  # notebook 4
    torch.manual_seed(seeds[epoch])  # for dropout
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seeds[epoch]))
    model.train()
    total = 0
    for batch in torch.tensor(train)[order].to(device).split(16):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(batch)
    loss, accuracy = evaluate(images[valid], labels[valid])
    print(f"{epoch}: train {total / len(train):.6f}, valid {loss:.6f}, accuracy {accuracy:.4f}")
    schedule.step(loss)
    if accuracy > best:  # the rule of notebook 4
        best = accuracy
        torch.save(model.state_dict(), "best.pth")
model.load_state_dict(torch.load("best.pth", weights_only=True))
print(f"test accuracy {evaluate(images[test], labels[test])[1]:.4f}")
