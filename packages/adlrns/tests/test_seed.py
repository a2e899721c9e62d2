"""The published snippets: only their import lines may change."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.data import TensorDataset

from adlrns._config_file import read_config
from adlrns._datasets import Task
from adlrns._datasets_pictures import PICTURES
from adlrns._energy_budget import note, range_of, served_mj
from adlrns._nets import make_net, serving
from adlrns_models import create_model, iter_dynamic_layers

ROOT = Path(__file__).parents[3]

QUICK_START = """
import torch
from adlrns import DynamicLowRankLayer, RankScheduler, PerfEstimator

# 创建动态低秩层
layer = DynamicLowRankLayer(
    in_features=512,
    out_features=256,
    r_max=64,
    r_min=4
)

# 创建秩调度器
scheduler = RankScheduler('energy_aware', r_min=4, r_max=64)

# 创建性能估算器
perf_estimator = PerfEstimator({
    'gpu_cores': 5120,
    'memory_bandwidth': 1e12
})

# 前向传播
input_tensor = torch.randn(32, 512)
output, current_rank = layer(input_tensor, budget=5.0)

print(f"输出形状: {output.shape}")
print(f"当前秩: {current_rank}")
"""

TRAINING = """
from adlrns.trainers import ADLRNSTrainer
import yaml

# 加载配置
with open('experiments/exp_config.yaml', 'r') as f:
    config = yaml.safe_load(f)

# 创建训练器
trainer = ADLRNSTrainer(model, config, device, save_dir='./checkpoints')

# 开始训练
training_history = trainer.train(train_loader, val_loader, num_epochs=100)
"""

CONFIGURATION = """
# 模型配置
model:
  type: adlrns_resnet
  r_min: 4
  r_max: 64
  scorer_hidden: 32
  num_gate_blocks: 8

# 训练配置
train:
  batch_size: 64
  epochs: 100
  lr: 1e-4
  energy_penalty_weight: 0.01

# 调度器配置
scheduler:
  type: energy_aware
  energy_budget_mJ_per_sample: 5.0
  alpha: 1.0
  beta: 0.1

# 硬件配置
hardware:
  gpu_type: V100
  flops_per_mac: 2
  energy_per_flop: 1e-6
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place to run in that has the repository's experiments."""
    if not (ROOT / "experiments").is_dir():
        assert "CI" not in os.environ, "the repository has a folder of experiments"
        pytest.skip("not in a checkout of the repository")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_quick_start_runs(capsys) -> None:
    names: dict[str, object] = {}
    exec(QUICK_START, names)
    assert capsys.readouterr().out.splitlines()[0] == "输出形状: torch.Size([32, 256])"
    assert 4 <= names["current_rank"] <= 64


def test_the_training_example_runs(checkout: Path) -> None:
    torch.manual_seed(0)
    section = yaml.safe_load((checkout / "experiments/exp_config.yaml").read_text())["model"]
    x, y = torch.randn(64, 1, 4, 4), torch.randint(0, 2, (64,))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=64, shuffle=True
    )
    names = {
        "model": create_model(**section, channels=1, classes=2, width=8, blocks=[1]),
        "device": "cpu",
        "train_loader": loader,
        "val_loader": loader,
    }
    exec(TRAINING, names)
    history = names["training_history"]
    assert len(history) == 100
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert (checkout / "checkpoints").is_dir()


def test_the_configuration_is_the_default_one(checkout: Path) -> None:
    (checkout / "seed.yaml").write_text(CONFIGURATION)
    seed = read_config(checkout / "seed.yaml")
    assert seed.train == read_config(checkout / "experiments/exp_config.yaml").train
    assert seed.train.lr == 1e-4
    assert seed.model.type == "adlrns_resnet"
    plain = yaml.safe_load((checkout / "experiments/exp_config.yaml").read_text())
    assert plain == yaml.safe_load(CONFIGURATION)


def test_the_default_budget_decides(checkout: Path) -> None:
    config = read_config(checkout / "experiments/exp_config.yaml")
    x = torch.zeros(1, 3, PICTURES, PICTURES)  # pictures as they are read by default
    items = TensorDataset(x, torch.zeros(1, dtype=torch.long))
    fit = {"channels": 3, "image_size": PICTURES, "classes": 10}
    task = Task(items, items, "classification", fit, "accuracy")
    found = range_of(config, task)
    assert found.least < config.scheduler.energy_budget_mJ_per_sample < found.most
    assert note(config, found) is None
    net = make_net(config, task).eval()
    with torch.no_grad(), serving(config, net):
        net(x)
    layers = list(iter_dynamic_layers(net))
    assert any(layer.r_min < layer.last_rank for layer in layers)
    assert any(layer.last_rank < layer.max_rank for layer in layers)
    assert served_mj(config, net, task, "cpu") <= 5.0


def test_the_script_runs_on_a_folder_of_pictures(checkout: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for part in ("train", "val"):
        for name, colour in (("cat", "red"), ("dog", "blue")):
            folder = checkout / "pictures" / part / name
            folder.mkdir(parents=True)
            image.new("RGB", (20, 16), colour).save(folder / "1.png")
    custom = CONFIGURATION.replace("epochs: 100", "epochs: 1") + "data:\n  size: 8\n"
    (checkout / "custom.yaml").write_text(custom)
    script = ["experiments/run_exp.sh", "--config", "custom.yaml", "--data_dir", "pictures"]
    done = subprocess.run(
        [*script, "--save_dir", "results", "--gpu", "0"],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (checkout / "results/results.csv").is_file()
    assert "no GPU" in done.stderr or torch.cuda.is_available()
