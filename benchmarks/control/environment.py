"""MuJoCo environments of gymnasium, whose episodes can be kept in the middle and go on to the same bits."""

import pickle
from types import ModuleType
from typing import Any

import numpy as np
import torch

MISSING = "this needs gymnasium with MuJoCo: pip install 'tgo_kernels[control]'"


def gym() -> ModuleType:
    """gymnasium.

    Raises:
        ImportError: naming what to install.
    """
    try:
        import gymnasium
        import mujoco  # noqa: F401  which gymnasium asks for only when an environment is made
    except ImportError as error:
        raise ImportError(f"{MISSING} ({error})") from error
    return gymnasium


class Environment:
    """A MuJoCo environment with actions in a box around 0; observations [D] and actions [A] are fp32.

    Raises:
        ImportError: gymnasium or mujoco is not installed.
        ValueError: there is no environment of that name, or it is of another kind.
    """

    def __init__(self, name: str) -> None:
        gymnasium = gym()
        try:
            made = gymnasium.make(name, disable_env_checker=True)
        except gymnasium.error.Error as error:
            raise ValueError(f"no environment {name}: {error}") from error
        self.env: Any = made.unwrapped
        self.limit, self.steps = made.spec.max_episode_steps, 0
        space, seen = self.env.action_space, self.env.observation_space
        boxes = isinstance(space, gymnasium.spaces.Box) and isinstance(seen, gymnasium.spaces.Box)
        if not boxes or len(seen.shape) != 1 or len(space.shape) != 1:
            raise ValueError(f"{name}: actions and observations must be vectors of numbers, got {space} and {seen}")
        if not (np.isfinite(space.high).all() and (space.low == -space.high).all() and (space.high > 0).all()):
            raise ValueError(f"{name}: actions must be in a finite box around 0, got {space}")
        if not hasattr(self.env, "model") or not hasattr(self.env, "data"):
            raise ValueError(f"{name} is no environment of MuJoCo")
        self.observations = seen.shape[0]
        self.largest = space.high.astype(np.float32)

    def start(self, seed: int | None = None) -> np.ndarray:
        """A new episode's first observation; by the last seed's generator where there is none."""
        self.steps = 0
        return self.env.reset(seed=seed)[0].astype(np.float32)

    def act(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool]:
        """The next observation, the reward, whether it is the episode's end, and whether that is its limit's."""
        observation, reward, ended, _, _ = self.env.step(action)
        self.steps += 1
        cut = self.limit is not None and self.steps >= self.limit
        return observation.astype(np.float32), float(reward), bool(ended), cut

    def state(self) -> dict[str, Any]:
        """All that the next steps depend on: MuJoCo's data whole, since rewards are of what is derived there too."""
        data = torch.frombuffer(bytearray(pickle.dumps(self.env.data)), dtype=torch.uint8)
        return {"data": data, "random": self.env.np_random.bit_generator.state, "steps": self.steps}

    def restore(self, state: dict[str, Any]) -> None:
        import mujoco

        self.start(0)
        mujoco.mj_copyData(self.env.data, self.env.model, pickle.loads(state["data"].numpy().tobytes()))
        self.env.np_random.bit_generator.state = state["random"]
        self.steps = state["steps"]
