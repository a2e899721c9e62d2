import gzip
import wave

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layer_importance._contribution import modality_contribution
from layer_importance._modalities.audio import Audio
from layer_importance._modalities.vision import Vision
from layer_importance._tasks.classification import Classification
from layer_importance._tasks.detection import Detection
from layer_importance._tasks.segmentation import Segmentation


@pytest.fixture(scope="module")
def digit_images(data_dir):
    def read(name="mnist", count=600):
        with gzip.open(data_dir / name / "t10k-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(16 + 784 * count), np.uint8, offset=16)
        with gzip.open(data_dir / name / "t10k-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
        images = torch.tensor(pixels.reshape(count, 1, 28, 28)).float() / 255
        return images, torch.tensor(labels).long()

    return read


@pytest.fixture(scope="module")
def spoken_digits(data_dir):
    """Sounds ``[N, 4000]``, lengths and digits of 12 recordings of each digit."""
    sounds, lengths, digits = [], [], []
    for digit in range(10):
        for speaker in ("george", "jackson", "theo"):
            for take in range(4):
                path = data_dir / "fsdd-4spk" / "recordings" / f"{digit}_{speaker}_{take}.wav"
                with wave.open(str(path)) as file:
                    raw = np.frombuffer(file.readframes(4000), "<i2").astype(np.float32)
                sounds.append(torch.tensor(np.pad(raw / 2**15, (0, 4000 - len(raw)))))
                lengths.append(len(raw))
                digits.append(digit)
    return torch.stack(sounds), torch.tensor(lengths), torch.tensor(digits)


class Convolved(nn.Module):
    """``x + out(relu(inner(x)))`` with convolutions."""

    def __init__(self, width, conv=nn.Conv2d):
        super().__init__()
        self.inner, self.out = (conv(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.out(torch.relu(self.inner(x)))


def in_batches(*parts, size=64):
    return list(zip(*(part.split(size) for part in parts), strict=True))


def middle(images):
    return images[..., 4:24, 4:24]


@pytest.fixture
def image_net():
    class ImageNet(nn.Module):
        """Sees the middle of an image only."""

        def __init__(self, width=12):
            super().__init__()
            self.stem = nn.Conv2d(1, width, 4, stride=4)
            self.blocks = nn.ModuleList([Convolved(width) for _ in range(3)])
            self.head = nn.Linear(25 * width, 10)

        def forward(self, images):
            x = self.stem(middle(images))
            for block in self.blocks:
                x = block(x)
            return self.head(x.flatten(1))

    return ImageNet()


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_images_the_useless_block_is_found(name, digit_images, image_net, train, verdict):
    batches = in_batches(*digit_images(name, 384))
    train(image_net, batches, Classification(), steps=60)
    verdict(image_net, batches, Classification())


def test_images_what_is_not_seen_is_not_missed(digit_images, image_net, train, scores, same):
    images, labels = digit_images(count=128)
    train(image_net, in_batches(images, labels), Classification())
    spoilt = Vision(patch=7).corrupt((images, labels), torch.Generator().manual_seed(0))[0]
    inside = torch.zeros_like(images, dtype=torch.bool)
    middle(inside)[:] = True
    framed = torch.where(inside, images, spoilt)
    assert not torch.equal(framed, images)
    one = scores(image_net, in_batches(images, labels), Classification())
    same(one, scores(image_net, in_batches(framed, labels), Classification()), tolerance=0)
    other = scores(image_net, in_batches(spoilt, labels), Classification())
    assert other["layer_ablation"]["blocks.0"] != one["layer_ablation"]["blocks.0"]


@pytest.fixture
def sound_net(residual):
    class SoundNet(nn.Module):
        """Frames of 80 samples, averaged where there is sound."""

        def __init__(self, width=16):
            super().__init__()
            self.stem = nn.Conv1d(1, width, 80, stride=80)
            self.blocks = nn.ModuleList([residual(width) for _ in range(3)])
            self.head = nn.Linear(width, 10)

        def forward(self, input_values, lengths):
            x = torch.relu(self.stem(10 * input_values[:, None])).movedim(1, 2)
            for block in self.blocks:
                x = block(x)
            frames = torch.arange(x.shape[1]) < (lengths[:, None] // 80)
            x = torch.where(frames[..., None], x, 0).sum(1) / frames.sum(1, keepdim=True)
            return self.head(x)

    return SoundNet()


def frames(lengths):
    return lengths // 80


def test_sounds_the_useless_block_is_found_and_silence_counts_nowhere(
    spoken_digits, sound_net, train, verdict, scores, same
):
    sounds, lengths, digits = spoken_digits
    order = torch.randperm(len(digits))
    parts = [part[order].split(40) for part in (sounds, lengths, digits)]
    keys = ("input_values", "lengths", "labels")
    batches = [dict(zip(keys, rows, strict=True)) for rows in zip(*parts, strict=True)]
    train(sound_net, batches, Classification(), steps=80, lr=1e-2)
    found = verdict(sound_net, batches, Classification(), modality=Audio(frames=frames))
    louder = []
    for batch in batches:
        silent = torch.arange(4000) >= 80 * frames(batch["lengths"])[:, None]
        filled = torch.where(silent, torch.randn(4000), batch["input_values"])
        louder.append({**batch, "input_values": F.pad(filled, (0, 160), value=9.0)})
    # 2 frames more: the masks are scaled
    same(found, scores(sound_net, louder, Classification(), modality=Audio(frames=frames)))


@pytest.fixture
def pair_net(residual):
    class Tower(nn.Module):
        def __init__(self, stem, width):
            super().__init__()
            self.stem = stem
            self.blocks = nn.ModuleList([residual(width) for _ in range(3)])

        def forward(self, x):
            x = torch.relu(self.stem(x))
            for block in self.blocks:
                x = block(x)
            return x

    class PairNet(nn.Module):
        def __init__(self, width=24):
            super().__init__()
            self.image = Tower(nn.Sequential(nn.Flatten(), nn.Linear(784, width)), width)
            loud = nn.Sequential(nn.Unflatten(1, (50, 80)), nn.Linear(80, 8), nn.ReLU())
            self.sound = Tower(nn.Sequential(loud, nn.Flatten(), nn.Linear(400, width)), width)
            self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, 10))

        def forward(self, images, sounds):
            return self.head(torch.cat([self.image(images), self.sound(10 * sounds)], 1))

    return PairNet()


def test_pictures_with_sounds_either_can_stand_in_for_the_other(
    digit_images, spoken_digits, pair_net, train, verdict
):
    images, labels = digit_images(count=600)
    sounds, _, digits = spoken_digits
    which = torch.stack([(digits == label).nonzero()[i % 12, 0] for i, label in enumerate(labels)])
    batches = in_batches(images, sounds[which], labels, size=100)
    useless = ("image.blocks.1", "sound.blocks.1")
    train(pair_net, batches, Classification(), steps=90, useless=useless)
    verdict(pair_net, batches, Classification(), *useless)
    found = modality_contribution(pair_net, batches, Classification(), inputs=[0, 1])
    assert all(one.value > 3 * one.standard_error for one in found.contribution.values())
    towers = modality_contribution(pair_net, batches, Classification(), inputs=["image", "sound"])
    for one in (found, towers):
        (pair,) = one.interaction.values()
        assert pair.value > 2 * pair.standard_error > 0


@pytest.fixture(scope="module")
def canvases(digit_images):
    """Two digits on a canvas of 32 x 32, what each is, its box, and the class of each pixel."""
    images, labels = digit_images(count=256)
    small = F.avg_pool2d(images, 2)[:, 0]
    generator = torch.Generator().manual_seed(0)
    canvas, classes = torch.zeros(128, 1, 32, 32), torch.full((128, 32, 32), 2)
    things = []
    for row in range(128):
        boxes, kinds = [], []
        for half in range(2):
            top = int(torch.randint(0, 18, (), generator=generator))
            left = 16 * half + int(torch.randint(0, 2, (), generator=generator))
            digit, kind = small[2 * row + half], int(labels[2 * row + half]) // 5
            canvas[row, 0, top : top + 14, left : left + 14] = digit
            classes[row, top : top + 14, left : left + 14][digit > 0.3] = kind
            boxes.append([(left + 7) / 32, (top + 7) / 32, 14 / 32, 14 / 32])
            kinds.append(kind)
        things.append({"class_labels": torch.tensor(kinds), "boxes": torch.tensor(boxes)})
    return canvas, things, classes


@pytest.fixture
def scene_net():
    class SceneNet(nn.Module):
        def __init__(self, width=12, queries=0):
            super().__init__()
            self.stem = nn.Conv2d(1, width, 5, padding=2, stride=4 if queries else 1)
            self.blocks = nn.ModuleList([Convolved(width) for _ in range(3)])
            self.queries = queries
            self.head = nn.Linear(64 * width, queries * 7) if queries else nn.Conv2d(width, 3, 1)

        def forward(self, images):
            x = torch.relu(self.stem(images))
            for block in self.blocks:
                x = block(x)
            if not self.queries:
                return self.head(x)
            found = self.head(x.flatten(1)).unflatten(1, (self.queries, 7))
            return {"logits": found[..., :3], "pred_boxes": found[..., 3:].sigmoid()}

    return SceneNet


def test_detection_the_useless_block_is_found(canvases, scene_net, train, verdict):
    images, things, _ = canvases
    batches = [(images[i : i + 32], things[i : i + 32]) for i in range(0, 64, 32)]
    net, task = scene_net(queries=4), Detection()
    before = task.loss(net(images[:64]), things[:64], None).mean()
    train(net, batches, task, steps=50, lr=1e-2)
    images, things = images[:64], things[:64]
    assert task.loss(net(images), things, None).mean() < before / 2
    assert task.quality(net(images), things, None).mean() > 0.2
    verdict(net, batches, task)


def test_segmentation_the_useless_block_is_found_and_ignored_pixels_are(
    canvases, scene_net, train, verdict, scores, same
):
    images, _, classes = canvases
    framed = classes.clone()
    framed[:, :, :4] = framed[:, :, -4:] = -100
    net, task = scene_net(width=6), Segmentation()
    batches = in_batches(images[:32], framed[:32], size=16)
    train(net, batches, task, steps=40, lr=1e-2)
    found = verdict(net, batches, task)
    told = in_batches(images[:32], torch.where(framed < 0, 255, framed)[:32], size=16)
    same(found, scores(net, told, Segmentation(ignored=255)), tolerance=0)
    assert task.quality(net(images[:32]), framed[:32], None).mean() > 0.4
