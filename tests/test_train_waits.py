"""Between two events of the online phase the host waits for nothing but the actions."""

import jax
import numpy as np
import pytest
from train_helpers import hopper_config, lines

import cfdg_jax
from cfdg_jax.training import drivers
from cfdg_jax.training.session import Session


class OnDevice:
    """Stands for arrays that the host must not look at."""

    def __getattribute__(self, name):
        raise AssertionError(f"the host waits for the device: {name}")

    def fail(self, *_):
        raise AssertionError("the host waits for the device")

    __array__ = __bool__ = __int__ = __float__ = __index__ = __iter__ = __len__ = __getitem__ = fail


@pytest.fixture
def hidden(monkeypatch):
    """Hides the state and the meters from the host outside events; counts the steps whose actions it asks for."""
    events, close, held, asked = Session.events, drivers.HostDriver.close, [], []

    def show(session):
        if held:
            session.state, session.meters = held.pop()

    def shown_in_events(self):
        show(self)
        events(self)
        if self.phase == "online":
            held.append((self.state, self.meters))
            hide = {name: OnDevice() for name in self.state._fields if name not in ("synthetic", "generator")}
            self.state, self.meters = self.state._replace(**hide), OnDevice()
            monkeypatch.setattr(jax, "block_until_ready", OnDevice.fail)
            monkeypatch.setattr(jax, "device_get", OnDevice.fail)
            driver["session"] = self

    def step(program, state, meters, *_):
        asked.append(1)
        return state, meters, np.zeros((2, 3), np.float32)

    driver = {}
    monkeypatch.setattr(Session, "events", shown_in_events)
    monkeypatch.setattr(drivers, "online_step", step)
    monkeypatch.setattr(drivers, "end_episodes", lambda program, state, *_: state)
    monkeypatch.setattr(drivers.HostDriver, "close", lambda self: (show(driver["session"]), close(self))[1])
    return asked


def test_the_host_waits_for_the_actions_alone(hidden, tmp_path):
    run = cfdg_jax.train(hopper_config(), tmp_path / "run", progress=False)
    assert len(hidden) == run.config.online.steps
    assert [line["step"] for line in lines(run.folder, "evaluations.jsonl")] == [0, 40, 80, 120]


@pytest.mark.parametrize("ask", [np.asarray, float, jax.block_until_ready, lambda state: state.step])
def test_any_other_question_fails(ask, hidden, tmp_path, monkeypatch):
    advance = drivers.HostDriver.advance

    def curious(self, session, *arguments):
        advance(self, session, *arguments)
        ask(session.meters)

    monkeypatch.setattr(drivers.HostDriver, "advance", curious)
    with pytest.raises(AssertionError, match="the host waits for the device"):
        cfdg_jax.train(hopper_config(), tmp_path / "run", progress=False)
