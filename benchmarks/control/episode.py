"""An episode as an animated picture, drawn without a display: the outlines of MuJoCo's geoms, seen from the side.

Nothing of OpenGL is asked for. A geom is a convex body; its outline is the convex hull of points of its surface, seen
along the y axis, or along z where all hinges turn about that.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from benchmarks.control.environment import Environment
from benchmarks.control.settings import Settings
from benchmarks.control.td3 import TD3
from benchmarks.control.training import TESTS

SIZE, FINE = (320, 240), 3  # pixels of an episode, drawn so many times as large
PAUSE = 0.04  # seconds of a frame at least
FOLLOWED = 2.0  # metres: a body that goes farther is followed
PAPER, INK, GROUND = (255, 255, 255), (90, 90, 90), (200, 200, 200)
ROUND = np.stack([np.cos(t := np.linspace(0, 2 * np.pi, 24, endpoint=False)), np.sin(t)], 1)
SPHERE = np.concatenate(
    [np.column_stack([np.cos(a) * ROUND, np.full(len(ROUND), np.sin(a))]) for a in np.linspace(-1, 1, 13) * np.pi / 2]
)
CORNERS = np.stack(np.meshgrid(*[(-1, 1)] * 3), -1).reshape(-1, 3)


class Frame(NamedTuple):
    outlines: list[tuple[np.ndarray, tuple[int, ...]]]  # [points, 2] in metres, and a colour
    centre: float  # of the first body, along the picture
    caption: str


class Episode(NamedTuple):
    frames: list[Frame]
    pause: float  # seconds of a frame
    ground: float | None


def surface(kind: int, size: np.ndarray) -> np.ndarray | None:
    """Points of a geom's surface in its own axes, [n, 3]; None of a plane, and of what is no simple body."""
    along = np.array([0.0, 0.0, size[1]])
    if kind == 2:  # a sphere
        return size[0] * SPHERE
    if kind == 3:  # a capsule
        return np.concatenate([size[0] * SPHERE + along, size[0] * SPHERE - along])
    if kind == 4:  # an ellipsoid
        return size * SPHERE
    if kind == 5:  # a cylinder
        disc = np.column_stack([size[0] * ROUND, np.zeros(len(ROUND))])
        return np.concatenate([disc + along, disc - along])
    return size * CORNERS if kind == 6 else None  # a box


def hull(points: np.ndarray) -> np.ndarray:
    """The convex hull of points [n, 2], in order (Andrew's monotone chain)."""

    def chain(ordered: list[np.ndarray]) -> list[np.ndarray]:
        found: list[np.ndarray] = []
        for p in ordered:
            while len(found) > 1 and not turns(found[-2], found[-1], p):
                found.pop()
            found.append(p)
        return found[:-1]

    ordered = sorted(points, key=tuple)
    return np.array(chain(ordered) + chain(ordered[::-1]))


def turns(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]) > 0


def outlines(model: Any, data: Any, seen: list[int]) -> list[tuple[np.ndarray, tuple[int, ...]]]:
    """Of all geoms that are to be seen, the farthest first, on the two axes ``seen``."""
    found = []
    depth = ({0, 1, 2} - set(seen)).pop()
    for i in sorted(range(model.ngeom), key=lambda i: data.geom_xpos[i, depth] * (1 if depth == 2 else -1)):
        points = surface(int(model.geom_type[i]), model.geom_size[i])
        if points is not None and model.geom_rgba[i, 3] > 0:
            world = data.geom_xpos[i] + points @ data.geom_xmat[i].reshape(3, 3).T
            colour = tuple(int(255 * c) for c in model.geom_rgba[i, :3])
            found.append((hull(world[:, seen]), colour))
    return found


def recorded(settings: Settings, weights: dict[str, Any], title: str, most: int) -> Episode:
    """The first ``most`` frames of a test's first episode, by an actor of these weights, in its own time."""
    environment = Environment(settings.env)
    agent = TD3(settings, environment.observations, environment.largest)
    agent.actor.load_state_dict(weights)
    observation, total, over = environment.start(settings.seed + TESTS), 0.0, False
    env = environment.env
    hinges = env.model.jnt_axis[env.model.jnt_type == 3]
    seen = [0, 1] if len(hinges) and (abs(hinges[:, 2]) == 1).all() else [0, 2]
    every = max(1, round(PAUSE / env.dt))
    planes = [env.data.geom_xpos[i, seen[1]] for i in range(env.model.ngeom) if env.model.geom_type[i] == 0]
    frames = list[Frame]()
    while len(frames) < most and not over:
        if environment.steps % every == 0:
            caption = f"{title}: step {environment.steps}, return {total:.0f}"
            frames.append(Frame(outlines(env.model, env.data, seen), env.data.xpos[1, 0], caption))
        observation, reward, ended, cut = environment.act(agent.act(observation))
        total, over = total + reward, ended or cut
    if over:
        caption = f"{title}: over after step {environment.steps}, return {total:.0f}"
        frames.append(Frame(outlines(env.model, env.data, seen), env.data.xpos[1, 0], caption))
    return Episode(frames, every * env.dt, planes[0] if planes and seen[1] == 2 else None)


def drawn(episode: Episode) -> list[Image.Image]:
    """One image a frame, all to the same scale."""
    centres = np.array([frame.centre for frame in episode.frames])
    middle = centres if np.ptp(centres) > FOLLOWED else np.full_like(centres, centres.mean())
    points = [
        outline - [at, 0] for frame, at in zip(episode.frames, middle, strict=True) for outline, _ in frame.outlines
    ]
    low, high = (of(np.concatenate(points), axis=0) for of in (np.min, np.max))
    if episode.ground is not None:
        low[1] = min(low[1], episode.ground)
    width, height = (FINE * side for side in SIZE)
    scale = min(0.9 * width / (high[0] - low[0]), 0.8 * height / (high[1] - low[1]))
    across, up = (low + high) / 2

    def at(outline: np.ndarray, centre: float) -> list[tuple[float, float]]:
        x = width / 2 + scale * (outline[:, 0] - centre - across)
        return list(zip(x, 0.55 * height - scale * (outline[:, 1] - up), strict=True))

    images = []
    for frame, centre in zip(episode.frames, middle, strict=True):
        image = Image.new("RGB", (width, height), PAPER)
        pen = ImageDraw.Draw(image)
        if episode.ground is not None:
            marks = np.arange(np.floor(centre + across) - 20, centre + across + 20, 0.5)
            for x, y in at(np.stack([marks, np.full_like(marks, episode.ground)], 1), centre):
                pen.line([(x, y), (x - 3 * FINE, y + 6 * FINE)], GROUND, FINE)
            pen.line([(0, y), (width, y)], GROUND, 2 * FINE)
        for outline, colour in frame.outlines:
            pen.polygon(at(outline, centre), colour, INK, FINE)
        image = image.resize(SIZE, Image.Resampling.LANCZOS)
        ImageDraw.Draw(image).text((6, 4), frame.caption, INK)
        images.append(image)
    return images


def animate(episodes: list[Episode], path: Path) -> int:
    """Episodes side by side, of which one that is over waits for the others; returns the number of frames."""
    rows = [drawn(episode) for episode in episodes]
    frames = []
    for i in range(max(map(len, rows))):
        frame = Image.new("RGB", (SIZE[0] * len(rows), SIZE[1]))
        for place, images in enumerate(rows):
            frame.paste(images[min(i, len(images) - 1)], (SIZE[0] * place, 0))
        frames.append(frame.quantize(32, dither=Image.Dither.NONE))
    path.parent.mkdir(parents=True, exist_ok=True)
    pause = round(100 * episodes[0].pause) * 10  # a GIF's are of 10 ms
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=pause, loop=0)
    return len(frames)
