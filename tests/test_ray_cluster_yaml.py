"""The cluster file, checked offline by Ray's own reader, and what we hold to beyond it."""

import copy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs.options import GPU_RECIPE, default_recipe
from seg.process import MALLOC, SPINS
from seg.recipes import find_recipe

FILE = Path(__file__).parents[1] / "ray-cluster.yaml"
TOKEN = "/home/ubuntu/.ray/auth_token"  # where Ray looks for it, for the user that starts Ray
Config = dict[str, Any]


@pytest.fixture
def config() -> Config:
    return prepare_config(yaml.safe_load(FILE.read_text()))


@pytest.fixture(params=["head", "worker"])
def start_command(request: pytest.FixtureRequest, config: Config) -> str:
    return config[f"{request.param}_start_ray_commands"][-1]


def words(command: str) -> list[str]:
    return command.replace(";", " ").split()


def add_top_level(config: Config) -> None:
    config["max_worker"] = 8


def add_to_node_type(config: Config) -> None:
    config["available_node_types"]["gpu"]["idle_timeout"] = 10


def misname_head(config: Config) -> None:
    config["head_node_type"] = "haed"


def ask_for_too_many(config: Config) -> None:
    config["available_node_types"]["gpu"]["min_workers"] = config["max_workers"] + 1


def test_ray_accepts_the_file(config: Config) -> None:
    validate_config(config)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (add_top_level, "'max_worker' was unexpected"),
        (add_to_node_type, "'idle_timeout' was unexpected"),
        (misname_head, "head_node_type"),
        (ask_for_too_many, "max_workers"),
    ],
)
def test_ray_refuses_a_spoilt_file(config: Config, spoil: Callable[[Config], None], message: str) -> None:
    spoil(config)
    with pytest.raises((ValidationError, ValueError), match=message):
        validate_config(config)


def test_the_provider_is_not_checked_by_ray_so_we_name_its_keys(config: Config) -> None:
    assert config["provider"].keys() == {"type", "region", "cache_stopped_nodes"}
    assert config["provider"]["type"] == "aws"


def test_every_blank_to_fill_in_stands_in_the_block_at_the_top() -> None:
    top, end, rest = FILE.read_text().partition("# ---- End of what a lab fills in.")
    assert end
    assert "FILL-IN" in top
    assert "FILL-IN" not in rest


def test_both_start_commands_demand_a_token(start_command: str) -> None:
    assert "RAY_AUTH_MODE=token" in words(start_command)
    assert words(start_command).index("RAY_AUTH_MODE=token") < words(start_command).index("start")


def test_the_token_reaches_every_node_at_the_place_where_ray_looks(config: Config) -> None:
    assert config["file_mounts"] == {TOKEN: "~/.ray/auth_token"}  # and no token stands in the file itself
    assert config["auth"]["ssh_user"] == "ubuntu"
    assert "RAY_AUTH_TOKEN" not in FILE.read_text()  # RAY_AUTH_TOKEN_PATH would take Ray elsewhere


def test_the_dashboard_listens_on_loopback_alone(config: Config) -> None:
    assert "--dashboard-host=127.0.0.1" in words(config["head_start_ray_commands"][-1])


def test_ray_starts_on_the_shared_storage_with_the_projects_python(start_command: str) -> None:
    before_ray = words(start_command.partition("ray start")[0])
    assert "PATH=/opt/fringe/bin:$PATH" in before_ray
    assert "PYTHONPATH=/mnt/fringe/project" in before_ray
    assert "FRINGE_CACHE=/mnt/fringe/cache" in before_ray
    assert before_ray.index("mountpoint") < before_ray.index("cd")  # no storage, no start
    assert before_ray[before_ray.index("cd") + 1] == "/mnt/fringe/project"


def test_every_node_mounts_the_storage_before_its_setup(config: Config) -> None:
    assert any("sudo mount /mnt/fringe" in command for command in config["initialization_commands"])


def test_every_node_installs_the_locked_requirements(config: Config) -> None:
    for node in ("head", "worker"):
        assert any("uv pip sync" in command for command in config[f"{node}_setup_commands"]), node


def test_every_command_is_a_sentence_of_the_shell(config: Config) -> None:
    for kind in ("initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"):
        for command in config[f"{kind}_commands"]:
            subprocess.run(["bash", "-n", "-c", command], check=True)


def test_gpu_machines_come_and_go_and_the_head_has_no_gpu(config: Config) -> None:
    gpu, head = config["available_node_types"]["gpu"], config["available_node_types"]["head"]
    assert gpu["resources"]["GPU"] == 1
    assert (gpu["min_workers"], gpu["max_workers"], config["max_workers"]) == (0, 8, 8)
    assert "GPU" not in head["resources"]
    assert head["max_workers"] == 0
    assert 0 < config["idle_timeout_minutes"] <= 30
    assert config["provider"]["cache_stopped_nodes"] is False


def test_nodes_differ_in_their_machine_alone(config: Config) -> None:
    gpu, head = (
        copy.deepcopy(config["available_node_types"][name]["node_config"]) for name in ("gpu", "head")
    )
    assert gpu.pop("InstanceType").startswith("g")
    assert head.pop("InstanceType").startswith("m")
    assert gpu == head


def test_a_bare_command_asks_for_no_more_gpus_than_its_batch_has_crops(config: Config) -> None:
    head = words(config["head_start_ray_commands"][-1])
    (workers,) = (int(word.partition("=")[2]) for word in head if word.startswith("FRINGE_WORKERS="))
    assert default_recipe(gpus=1) == GPU_RECIPE
    assert 1 <= workers <= find_recipe(GPU_RECIPE).batch


def test_threads_on_its_nodes_wait_as_long_as_those_of_jobs(start_command: str) -> None:
    assert f"GOMP_SPINCOUNT={SPINS}" in words(start_command)


def test_its_nodes_keep_memory_as_jobs_do(start_command: str) -> None:
    assert {f"{name}={value}" for name, (_, value) in MALLOC.items()} <= set(words(start_command))
