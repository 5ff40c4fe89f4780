import pytest
import torch
from torch import nn

from idc.training.optim import create_optimizer, create_schedule

CPU = torch.device("cpu")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbones = nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)])
        self.head = nn.Linear(4, 1)


@pytest.fixture
def train_config(change_params):
    def change(**changes):
        return change_params(train={"weight_decay": 0.05, **changes}).train

    return change


def groups(model, config):
    optimizer = create_optimizer(model, config, learning_rate=0.4, device=CPU)
    return {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def test_create_optimizer_when_a_rate_factor_is_set_then_backbones_learn_slower(train_config):
    model = Net()
    settings = groups(model, train_config(backbone_rate_factor=0.1))
    assert settings[id(model.head.weight)] == (0.4, 0.05)
    assert settings[id(model.backbones[1].weight)] == (pytest.approx(0.04), 0.05)


def test_create_optimizer_when_a_parameter_is_a_vector_then_it_does_not_decay(train_config):
    model = Net()
    settings = groups(model, train_config())
    assert settings[id(model.head.bias)] == (0.4, 0.0)
    assert settings[id(model.backbones[0].bias)] == (0.4, 0.0)


def test_create_optimizer_when_backbones_are_frozen_then_holds_the_head_alone(train_config):
    model = Net()
    model.backbones.requires_grad_(requires_grad=False)
    assert set(groups(model, train_config())) == {id(p) for p in model.head.parameters()}


def rates(num_steps, warmup_share):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = create_schedule(optimizer, num_steps=num_steps, warmup_share=warmup_share)
    seen = []
    for _ in range(num_steps):
        seen.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [*seen, schedule.get_last_lr()[0]]


def test_create_schedule_when_run_then_rises_to_the_peak_and_falls_to_zero():
    seen = rates(20, 0.25)
    assert seen[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert max(seen) == seen[5] == 2.0
    assert seen[5:] == sorted(seen[5:], reverse=True)
    assert seen[-1] == pytest.approx(0.0, abs=1e-12)


def test_create_schedule_when_halfway_down_then_the_rate_is_half():
    assert rates(20, 0.2)[12] == pytest.approx(1.0)
