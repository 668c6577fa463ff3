"""Between two events of the online phase the host waits for the actions, or for the call before the one under way."""

import jax
import numpy as np
import pytest
from train_helpers import assert_same_run, hopper_config, lines, toy_config

import cfdg_jax
from cfdg_jax.dryrun import dry_run
from cfdg_jax.training import drivers
from cfdg_jax.training.program import Compiled
from cfdg_jax.training.session import Session


class OnDevice:
    """Stands for an array that the host must not look at; compiled functions alone are given what it hides."""

    def __init__(self, array):
        object.__setattr__(self, "array", array)

    def __getattribute__(self, name):
        raise AssertionError(f"the host waits for the device: {name}")

    def fail(self, *_):
        raise AssertionError("the host waits for the device")

    __array__ = __bool__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __getitem__ = fail


class Actions:
    """Actions, which the host may ask for as a whole; counts how often it does."""

    asked = 0

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        Actions.asked += 1
        return np.asarray(self.array)


class Ended:
    """Ended episodes of a call of many steps, which the host may ask for once the next call is given, or in events."""

    calls, free, asked = 0, True, 0

    def __init__(self, array):
        self.array, self.call = array, Ended.calls

    def __array__(self, dtype=None, copy=None):
        assert Ended.free or Ended.calls > self.call, "the host waits for the call under way"
        Ended.asked += not Ended.free
        return np.asarray(self.array)


STANDS = (OnDevice, Actions, Ended)
reveal = lambda leaf: object.__getattribute__(leaf, "array") if isinstance(leaf, STANDS) else leaf
shown = lambda tree: jax.tree.map(reveal, tree)
hidden = lambda tree: jax.tree.map(OnDevice, tree)


@pytest.fixture
def watched(monkeypatch):
    """Between events the state and meters of the online phase are hidden from the host; its programs run as they do."""
    events, of = Session.events, Compiled.of
    session = None

    def hide(found):
        nonlocal session
        session, Ended.free = found, False
        session.state, session.meters = hidden((session.state, session.meters))
        for name in ("block_until_ready", "device_get"):
            monkeypatch.setattr(jax, name, OnDevice.fail)

    def show():
        nonlocal session
        if session is not None:
            session.state, session.meters = shown((session.state, session.meters))
            session, Ended.free = None, True
            monkeypatch.setattr(jax, "block_until_ready", block)
            monkeypatch.setattr(jax, "device_get", get)

    def within(self):
        show()
        events(self)
        if self.phase == "online":
            hide(self)

    def of_watched(self, program):
        jitted = of(self, program)

        def call(*args, **kwargs):
            args, kwargs = shown((args, kwargs))
            made = jitted(*args, **kwargs)
            if self is drivers.scan_steps:
                Ended.calls += 1
                return *hidden(made[:2]), made[2], tuple(map(Ended, made[3]))
            if self is drivers.online_step:
                return *hidden(made[:2]), Actions(made[2])
            return Actions(made) if self is drivers.acting_step else hidden(made)

        return jitted if session is None else call

    block, get = jax.block_until_ready, jax.device_get
    Actions.asked = Ended.calls = Ended.asked = 0
    monkeypatch.setattr(Session, "events", within)
    monkeypatch.setattr(Compiled, "of", of_watched)
    for driver in (drivers.HostDriver, drivers.PureDriver):
        monkeypatch.setattr(driver, "close", lambda self, close=driver.close: (show(), close(self))[1])


@pytest.mark.parametrize("overlap", [False, True])
def test_the_host_waits_for_the_actions_alone(overlap, watched, tmp_path):
    config = hopper_config(online__overlap=overlap)
    run = cfdg_jax.train(config, tmp_path / "run", progress=False)
    logged = lines(run.folder, "metrics.jsonl")
    assert logged[-1]["step"] == config.online.steps
    assert np.isfinite(logged[-1]["critic_loss"]).all()
    assert sum(sum(line.get("episodes", [])) for line in logged) > 0, "no episode ended, so nothing closed one"
    in_events = config.online.steps // config.evaluate.online_every  # a checkpoint holds the next actions
    assert Actions.asked <= config.online.steps + in_events


def test_with_an_environment_in_jax_the_host_is_a_call_behind(watched, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(drivers.PureDriver, "most", 5)
    config = toy_config("none", online__overlap=True)
    run = cfdg_jax.train(config, tmp_path / "run", progress=True)
    useless = "online.overlap: actions are one update old, but nothing overlaps"
    assert useless in capsys.readouterr().err and useless in dry_run(config, run.folder)
    logged = lines(run.folder, "metrics.jsonl")
    assert logged[-1]["step"] == config.online.steps
    assert Ended.calls > 2 * config.online.steps // config.log.every, "no call was made while another was under way"
    assert Ended.asked > 0


def test_any_other_question_fails(watched, tmp_path, monkeypatch):
    asked = []

    def curious(self, session, *_):
        for ask in (np.asarray, float, jax.block_until_ready, jax.device_get, lambda state: state.shape):
            with pytest.raises(AssertionError, match="the host waits for the device"):
                ask(session.state.step)
            asked.append(ask)
        raise KeyboardInterrupt

    monkeypatch.setattr(drivers.HostDriver, "advance", curious)
    with pytest.raises(KeyboardInterrupt):
        cfdg_jax.train(hopper_config(), tmp_path / "run", progress=False)
    assert len(asked) == 5


@pytest.mark.parametrize("overlap", [False, True])
def test_actions_come_in_pinned_memory_where_a_device_has_its_own(overlap, tmp_path, monkeypatch):
    config, step, kinds = hopper_config(online__overlap=overlap), drivers.HostDriver._step, []
    plain = cfdg_jax.train(config, tmp_path / "plain", progress=False)
    monkeypatch.setattr("cfdg_jax.training.devices.has_memory_of_its_own", lambda: True)

    def watch(self, session):
        kinds.append(self.action.sharding.memory_kind)
        return step(self, session)

    monkeypatch.setattr(drivers.HostDriver, "_step", watch)
    assert_same_run(cfdg_jax.train(config, tmp_path / "pinned", progress=False), plain)
    assert kinds[0] == "device" and set(kinds[1:]) == {"pinned_host"}  # the first is no part of an online step
