"""What a training run leaves on disk: its folder, what it prints and logs, whole files, machine and versions."""

# ruff: noqa: F401
from alexnet_cifar10.runs.files import CheckpointError, load_checkpoint, load_model, load_state, save_checkpoint
from alexnet_cifar10.runs.machine import describe_machine, git_commit, here_and_now, machine
from alexnet_cifar10.runs.run import Run, TrainingError, TrainingRun, find_run, is_run_name, new_folder, runs_root
