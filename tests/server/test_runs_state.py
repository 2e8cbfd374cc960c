"""What the train node's panel makes of a journal: the same as Python does. Needs Node.js, no browser."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import browser
import pytest
from ideogram4_lora_trainer.trainer_core.training.journal import JOURNAL, read_journal

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")

WEB = Path(__file__).resolve().parents[2] / "web"
Events = list[dict[str, Any]]


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The panel's modules, as Node.js wants them: without a word in package.json it would not take them as such."""
    folder = tmp_path_factory.mktemp("web")
    for part in ("run", "lib"):
        shutil.copytree(WEB / part, folder / part)
    (folder / "package.json").write_text('{"type": "module"}')
    return str(folder)


def fold(web: str, *journals: Events, parts: int = 1) -> list[dict[str, Any]]:
    """The states of some journals, each folded in so many parts."""
    size = [max(1, -(-len(journal) // parts)) for journal in journals]
    cut = [[journal[i : i + n] for i in range(0, len(journal), n)] for journal, n in zip(journals, size, strict=True)]
    states: list[dict[str, Any]] = browser.run_script("run_state.mjs", {"web": web, "journals": cut})["states"]
    return states


def started(steps: int = 100) -> dict[str, Any]:
    return {"event": "started", "step": 0, "steps": steps, "time": 1.0, "origin": {"node": "7", "workflow": "w"}}


def step(number: int, loss: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {"event": "step", "step": number, "loss": loss, "smoothed_loss": loss, "time": 2.0 + number, **more}


def resumed(number: int, steps: int = 100) -> dict[str, Any]:
    return {**started(steps), "event": "resumed", "step": number}


def steps_of(state: dict[str, Any], name: str = "points") -> list[int]:
    return [item["step"] for item in state[name]]


def random_journal(seed: int) -> Events:
    """A run that is cut off and resumed several times, with everything that a journal has."""
    rng = random.Random(seed)
    events: Events = [started()]
    done = 0
    for _ in range(rng.randint(20, 200)):
        kind = rng.choice(["step"] * 6 + ["checkpoint", "validation", "preview", "note", "again", "resume", "stopped"])
        if kind == "step":
            done += 1
            events.append(step(done, round(rng.random(), 6)))
        elif kind == "checkpoint":
            events.append({"event": kind, "step": done, "name": f"step_{done:06}"})
        elif kind == "validation":
            best = rng.random() < 0.3
            loss = round(rng.random(), 6)
            events.append({"event": kind, "step": done, "loss": loss, "train_loss": 0.1, "best": best})
        elif kind == "preview":
            events.append({"event": kind, "step": done, "prompt": rng.randint(0, 2), "time": round(rng.random(), 6)})
        elif kind == "note":
            events.append({"event": kind, "step": done, "text": f"note {rng.random()}"})
        elif kind == "again" and done:
            events.append(step(rng.randint(1, done), round(rng.random(), 6)))
        elif kind == "resume":
            done = rng.randint(0, done)
            events.append(resumed(done))
        elif kind == "stopped":
            events.append({"event": kind, "step": done, "reason": "failed", "message": "words"})
    return events


def test_random_journals_say_the_same_here_and_there_however_they_are_cut(web: str, tmp_path: Path) -> None:
    journals = [random_journal(seed) for seed in range(40)]
    states = fold(web, *journals)
    assert fold(web, *journals, parts=7) == states
    for journal, state in zip(journals, states, strict=True):
        (tmp_path / JOURNAL).write_text("".join(json.dumps(event) + "\n" for event in journal))
        known = read_journal(tmp_path)

        def of(kind: str, *fields: str, known: Events = known) -> list[Any]:
            return [tuple(event[field] for field in fields) for event in known if event["event"] == kind]

        assert [(p["step"], p["loss"]) for p in state["points"]] == of("step", "step", "loss")
        assert [(c["step"], c["name"]) for c in state["checkpoints"]] == of("checkpoint", "step", "name")
        assert [(v["step"], v["loss"]) for v in state["validations"]] == of("validation", "step", "loss")
        shown = {(p["step"], p["prompt"], p["time"]) for p in state["previews"]}
        assert shown == set(of("preview", "step", "prompt", "time"))
        best = [v["step"] for v in state["validations"] if v["best"]]
        assert (state["best"] or {"step": None})["step"] == (best[-1] if best else None)


def test_what_a_resume_made_void_is_gone_and_what_came_before_stays(web: str) -> None:
    events = [started(), *(step(number) for number in range(1, 9))]
    events += [
        {"event": "checkpoint", "step": 4, "name": "step_000004"},
        {"event": "checkpoint", "step": 8, "name": "step_000008"},
        {"event": "validation", "step": 4, "loss": 0.4, "best": True},
        {"event": "validation", "step": 8, "loss": 0.1, "best": True},
        {"event": "preview", "step": 0, "prompt": 0},
        {"event": "preview", "step": 8, "prompt": 0},
        {"event": "note", "step": 8, "text": "kept"},
        {"event": "stopped", "step": 8, "reason": "failed", "message": "words"},
    ]
    before, after = fold(web, events, [*events, resumed(4, 50)])
    assert (before["done"], before["best"]["step"], before["end"]["message"]) == (8, 8, "words")
    assert (after["done"], after["best"]["step"], after["end"]) == (4, 4, None)
    assert steps_of(after) == [1, 2, 3, 4] and after["steps"] == 50
    assert steps_of(after, "checkpoints") == steps_of(after, "validations") == [4]
    assert after["previewSteps"] == [0]
    assert [note["text"] for note in after["notes"]] == ["kept"]


def test_steps_before_a_resume_may_be_told_after_it(web: str) -> None:
    """A crash kept them from the journal; the checkpoint knows them."""
    orders = [[1, 2, 3, 4], [3, 4, 1, 2], [4, 3, 2, 1]]
    states = fold(web, *([started(), resumed(4), *(step(number) for number in order)] for order in orders))
    assert [steps_of(state) for state in states] == [[1, 2, 3, 4]] * 3


def test_the_later_line_of_a_step_holds(web: str) -> None:
    (state,) = fold(web, [started(), step(1, 0.9), step(2, 0.8), step(1, 0.1), step(2, None, skipped=True)])
    assert [(p["loss"], p["skipped"]) for p in state["points"]] == [(0.1, False), (None, True)]


def test_the_newest_preview_is_the_last_one_made(web: str) -> None:
    pictures = [
        {"event": "preview", "step": 5, "prompt": prompt, "time": time} for time, prompt in ((1, 0), (2, 1), (3, 0))
    ]
    (state,) = fold(web, [started(), *pictures])
    assert [(p["prompt"], p["time"]) for p in state["previews"]] == [(1, 2), (0, 3)]


@pytest.mark.parametrize(
    "event",
    [
        None,
        3,
        [],
        {},
        {"event": "step"},
        {"event": "step", "step": -1},
        {"event": "step", "step": 1.5},
        {"event": "__proto__", "step": 1},
        {"event": "constructor", "step": 1},
        {"event": "preview", "step": 1, "prompt": "../.."},
        {"event": "unheard of", "step": 1},
    ],
)
def test_lines_that_mean_nothing_change_nothing(web: str, event: Any) -> None:
    plain = [started(), step(1)]
    without, with_it = fold(web, plain, [*plain, event])
    assert with_it == without


def test_values_of_the_wrong_kind_are_taken_for_missing(web: str) -> None:
    odd: Any = {"a": 1}
    events = [
        {"event": "started", "step": 0, "steps": "many", "origin": None},
        {"event": "step", "step": 1, "loss": "low", "smoothed_loss": odd, "learning_rate": [], "seconds_per_step": "1"},
        {"event": "validation", "step": 1, "loss": None, "train_loss": "x", "images": odd},
        {"event": "previews", "step": 0, "prompts": "one", "guided": None},
        {"event": "preview", "step": 1, "prompt": 0, "time": "now"},
        {"event": "note", "step": 1, "text": odd},
        {"event": "stopped", "step": 1, "reason": odd, "message": None, "lora": 3},
    ]
    (state,) = fold(web, events)
    assert state["points"] == [{"step": 1, "loss": None, "smoothed": None, "rate": None, "skipped": False}]
    assert (state["steps"], state["best"], state["origin"]) == (0, None, {"node": "", "workflow": ""})
    assert state["previewPlan"]["prompts"] == [] and state["end"]["message"] == "" and state["notes"][0]["text"] == ""


@pytest.mark.parametrize(
    ("events", "active", "kind"),
    [
        ([], True, "waiting"),
        ([started()], True, "waiting"),
        ([started(), step(1)], True, "training"),
        ([started(), step(1)], False, "failed"),
        ([started(), step(1), {"event": "finished", "step": 1}], False, "finished"),
        ([started(), step(1), {"event": "stopped", "step": 1, "reason": "kept"}], False, "stopped"),
        ([started(), step(1), {"event": "stopped", "step": 1, "reason": "cancelled"}], False, "stopped"),
        ([started(), step(1), {"event": "stopped", "step": 1, "reason": "non_finite"}], False, "failed"),
        ([started(), step(1), {"event": "stopped", "step": 1, "reason": "failed"}, resumed(1)], True, "waiting"),
    ],
)
def test_the_state_in_words(web: str, events: Events, active: bool, kind: str) -> None:
    (state,) = fold(web, events)
    words = state["words"]["active" if active else "idle"]
    assert words["kind"] == kind
    assert words["title"]


def test_time_left_is_what_the_run_says_with_all_that_is_done_beside_steps(web: str) -> None:
    (state,) = fold(web, [started(100), step(40, seconds_per_step=2.0, seconds_left=120.0, peak_bytes=3_000_000_000)])
    assert state["figures"] == {"left": "2 min 00 s", "speed": "2.00 s", "memory": "3.0 GB", "loss": "0.50"}


def test_a_run_of_the_greatest_length_is_drawn_in_no_more_points_than_there_are_pixels(web: str) -> None:
    rng = random.Random(1)
    losses = [rng.random() + 0.1 for _ in range(40_000)]
    losses[20_000], losses[30_000] = 0.0, 7.0
    plots = [{"losses": losses, "width": 400, "log": log} for log in (False, True)]
    drawn = browser.run_script("run_state.mjs", {"web": web, "plots": plots})["drawn"]
    for plot in drawn:
        points = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", plot["path"])
        assert len(points) <= 2 * 405
        xs = [float(x) for x, _ in points]
        assert xs == sorted(xs), "a line never goes back"
        assert "NaN" not in plot["path"] and "Infinity" not in plot["path"]
        low, high = plot["range"]["values"]
        assert low < 0.2 and 1.0 < high < 7.0, "one wild step does not flatten all others"
        assert plot["ticks"] and all(low <= tick <= high for tick in plot["ticks"])
    # The wild step is drawn all the same; it lies outside of the plot.
    assert min(float(y) for _, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", drawn[0]["path"])) < 0


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "losses", [[], [None], [0.5], [0.5] * 30, [0.0] * 3, [1e-9, 1e9], [None, 0.4, None, 0.3], [-1, 2]]
)
def test_any_losses_can_be_drawn(web: str, losses: list[float | None], log: bool) -> None:
    (plot,) = browser.run_script(
        "run_state.mjs", {"web": web, "plots": [{"losses": losses, "width": 300, "log": log}]}
    )["drawn"]
    low, high = plot["range"]["values"]
    assert low < high
    assert len(plot["ticks"]) < 50
    assert "NaN" not in plot["path"] and "Infinity" not in plot["path"]
