"""Drive an exported policy with onnxruntime alone, from what its file says of itself.

    memrl-ctrl train ppo-lstm-cartpole-no-vel --out runs/cartpole
    memrl-ctrl export runs/cartpole --out cartpole.onnx
    python examples/drive_exported_policy.py cartpole.onnx

Nothing of memrl-ctrl is needed: the manifest (JSON in the file's metadata) names inputs, outputs and memory,
says what the observation's numbers are and what an action means; normalisation and scaling are in the graph.
Two tasks are set up here from that: CartPole of Gymnasium seen without its velocities, and MiniGrid's own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import onnxruntime

MANIFEST = "memrl_ctrl.manifest"
"""Key of the manifest in the file's metadata."""


class Policy:
    """One policy, and the memory of one episode."""

    def __init__(self, path: str) -> None:
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self.manifest = json.loads(self.session.get_modelmeta().custom_metadata_map[MANIFEST])
        self.reset()

    def reset(self) -> None:
        """Begin an episode: memory at its reset value, nothing applied yet."""
        manifest = self.manifest
        self.memory = {
            one["name_in"]: np.full((1, *one["shape"]), one["reset"], one["dtype"])
            for one in manifest["memory"]
        }
        self.previous = np.zeros((1, *manifest["action"]["shape"]), np.float32)

    def act(self, observation: np.ndarray) -> Any:
        """Decide; what comes back is what the environment's `step` takes."""
        seen, acts = self.manifest["observation"], self.manifest["action"]
        outputs = [acts["name"], *(one["name_out"] for one in self.manifest["memory"])]
        inputs = {
            seen["name"]: np.asarray(observation, np.float32).reshape(1, *seen["shape"]),
            acts["previous_name"]: self.previous,
            **self.memory,
        }
        action, *memory = self.session.run(outputs, inputs)
        self.memory = dict(zip(self.memory, memory, strict=True))
        if not acts["choices"]:
            self.previous = action
            return action[0]
        # Of choices the policy is told 1 + the one that was made, so that 0 is none.
        self.previous = (1 + action).astype(np.float32)
        return int(action[0, 0]) if acts["single"] else action[0]


def cartpole(manifest: dict[str, Any]) -> tuple[gymnasium.Env, Callable[[Any], np.ndarray]]:
    """Gymnasium's CartPole, and what the policy sees of it: two of the four numbers."""
    print("sees:", ", ".join(manifest["observation"]["meaning"]["entries"]))
    return gymnasium.make("CartPole-v1"), lambda observation: observation[[0, 2]]


def minigrid(manifest: dict[str, Any]) -> tuple[gymnasium.Env, Callable[[Any], np.ndarray]]:
    """MiniGrid's own task, and its view as the channels that the manifest lists."""
    import minigrid  # noqa: F401 - registers the tasks

    task = manifest["training"]["task"]
    options = manifest["training"]["configuration"]["environment"]["options"]
    if not task.startswith(("MiniGrid-", "BabyAI-")):
        raise SystemExit(f"{task} is no task of MiniGrid itself; this example knows only those")
    meaning = manifest["observation"]["meaning"]
    limit = {"max_steps": options["max_steps"]} if "max_steps" in options else {}
    env = gymnasium.make(task, agent_view_size=meaning["view_size"], **limit)
    # MiniGrid gives three numbers a cell: object, colour, state.
    place = {"object": 0, "colour": 1, "state": 2}

    def encode(observation: Any) -> np.ndarray:
        image = observation["image"]
        channels = []
        for channel in meaning["channels"]:
            what, _, code = channel.partition(" is ")
            if what == "direction":
                number = np.full(image.shape[:2], observation["direction"])
            else:
                number = image[..., place[what]]
            channels.append(number == int(code) if code else number)
        return np.stack(channels, axis=-1).astype(np.float32)

    return env, encode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="ONNX file")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    policy = Policy(arguments.policy)
    task = policy.manifest["training"]["task"]
    env, encode = (cartpole if "CartPole" in task else minigrid)(policy.manifest)
    print("acts:", ", ".join(policy.manifest["action"]["names"]))
    returns = []
    for episode in range(arguments.episodes):
        observation, _ = env.reset(seed=arguments.seed + episode)
        policy.reset()
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(
                policy.act(encode(observation))
            )
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    env.close()
    print(f"{task}: return {np.mean(returns):.3f} over {len(returns)} episodes")


if __name__ == "__main__":
    main()
