"""A run's static half: algorithms, transforms, device data and the jitted programs the loops dispatch.

    offline_chunk    draw K.B rows, mark, K updates                              (one dispatch per K updates, all seeds)
    online_step      insert S rows; draw, mark, UTD updates; next actions         (one dispatch per environment step)
    learn            draw, mark, K updates                                        (blocks of updates, APL's rhythm)
    act, evaluate    actions alone

Arrays enter as arguments, never as closure constants; state and buffers are donated; offline rows are shared.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from cfdg_jax.config import TrainConfig
from cfdg_jax.core import ring
from cfdg_jax.core.seeds import over_seeds, purpose_key, purpose_keys, seed_keys
from cfdg_jax.data.returns import ReturnRule, close_episodes
from cfdg_jax.data.transforms import Transforms, apply_observation, apply_reward
from cfdg_jax.methods import Agent, Augmenter, Mix, Stage, Stratifier
from cfdg_jax.training.meters import Meters, accumulate
from cfdg_jax.types import Array, Buffer, Counts, Metrics, Pool, Source, Spec, StratifierState, TrainState


@dataclasses.dataclass(frozen=True)
class Program:
    """Everything about a run that is not state. Made by `cfdg_jax.training.build.build_program`."""

    config: TrainConfig
    spec: Spec
    transforms: Transforms
    offline_rows: Array
    offline_agent: Agent
    online_agent: Agent
    augmenter: Augmenter
    mix: Mix
    stratifier: Stratifier

    @property
    def keys(self) -> Array:
        """`[S]` keys of the run's seeds."""
        return seed_keys(self.config.run_key, self.config.seeds, self.config.first_seed)

    def each_seed(self, fn, in_axes):
        """`fn` over the seed axis, the way this run compiles it."""
        return over_seeds(fn, in_axes, self.config.seed_axis)

    def _each_stratifier(self, fn, in_axes):
        """`each_seed` of ``fn(shared, own, *args) -> (own, *rest)`` on a `StratifierState`."""

        def run(stratifier: StratifierState, *args):
            own, *rest = self.each_seed(fn, (None, 0, *in_axes))(*stratifier, *args)
            return stratifier._replace(own=own), *rest

        return run

    def agent(self, phase: str) -> Agent:
        return self.online_agent if phase == "online" else self.offline_agent

    # -- state -------------------------------------------------------------------------------------------------------

    def init(self, phase: str) -> TrainState:
        """Fresh state of `phase`; buffers are allocated for the online phase only."""
        keys = self.keys
        agent_state = jax.jit(jax.vmap(self.agent(phase).init))(purpose_keys(keys, "agent_init"))
        decide_keys = purpose_keys(keys, "stratifier_init")
        mix_state = jax.jit(jax.vmap(self.mix.init))(decide_keys)
        stratifier_state = jax.jit(self._init_stratifier)(decide_keys)
        capacity = self.config.online.capacity if phase == "online" else 1
        online = ring.empty(capacity, self.spec.layout.width, self.config.seeds)
        counter = jnp.zeros((), jnp.int32)
        return TrainState(agent_state, (), stratifier_state, mix_state, online, {}, keys, counter)

    def _init_stratifier(self, keys: Array) -> StratifierState:
        """Fresh states; what serves all seeds starts from the run's key."""
        numbers = self.config.first_seed + jnp.arange(self.config.seeds, dtype=jnp.int32)
        run_key = purpose_key(jax.random.key(self.config.run_key), "stratifier_init")
        return StratifierState(self.stratifier.init_shared(run_key), jax.vmap(self.stratifier.init)(keys, numbers))

    @functools.cached_property
    def prepare_stratifier(self):
        """``(state, offline_rows, step, stage, count) -> (stratifier_state, metrics)``: `count` steps of a stage.

        `stage` and `count` are static; `step` counts the steps of all stages before this call.
        """

        def prepare(state: TrainState, offline_rows, step, stage: Stage, count: int):
            def one(shared, own, agent, key):
                value = functools.partial(self.offline_agent.value, agent)
                assert self.stratifier.prepare is not None, "a stratifier with stages prepares them"
                return self.stratifier.prepare(shared, own, stage.name, offline_rows, value, key, count)

            if not stage.shared:
                keys = purpose_keys(state.key, "stratifier_prepare", step)
                return self._each_stratifier(one, (0, 0))(state.stratifier, state.agent, keys)
            shared, own = state.stratifier
            first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
            key = purpose_key(jax.random.key(self.config.run_key), "stratifier_prepare", step)
            trained, metrics = one(shared, first(own), first(state.agent), key)
            shown = jax.tree.map(lambda value: jnp.broadcast_to(value, (self.config.seeds, *value.shape)), metrics)
            return StratifierState(trained, own), shown

        return jax.jit(prepare, static_argnames=("stage", "count"))

    @functools.cached_property
    def _go_online(self):
        return jax.jit(lambda agent, keys: jax.vmap(self.offline_agent.go_online)(agent, keys))

    def go_online(self, state: TrainState) -> TrainState:
        """The hand-over: the agent's own rule, fresh rings, the update count at zero."""
        agent_state = self._go_online(state.agent, purpose_keys(state.key, "go_online"))
        online = ring.empty(self.config.online.capacity, self.spec.layout.width, self.config.seeds)
        return state._replace(agent=agent_state, online=online, step=jnp.zeros((), jnp.int32))

    # -- generating --------------------------------------------------------------------------------------------------

    def _over_online(self, fn, state: TrainState, *seeded):
        """``fn(online Buffer, *seeded)`` for every seed."""
        online = state.online
        one = lambda rows, *args: fn(Buffer(rows, online.position, online.size), *args)
        return self.each_seed(one, (0,) * (1 + len(seeded)))(online.rows, *seeded)

    def init_generator(self, state: TrainState, keys: Array, offline_rows: Array):
        """Fresh generator states for all seeds, normalisers fitted."""
        return self._over_online(lambda online, key: self.augmenter.init(key, offline_rows, online), state, keys)

    @functools.cached_property
    def start_generator(self):
        """`init_generator`, jitted."""
        return jax.jit(self.init_generator)

    @functools.cached_property
    def fit_generator(self):
        """``(generator, state, offline_rows, keys, steps) -> (generator, metrics)``; `steps` is static."""

        def fit(generator, state, offline_rows, keys, steps: int):
            one = lambda online, gen, key: self.augmenter.fit(gen, offline_rows, online, key, steps)
            return self._over_online(one, state, generator, keys)

        return jax.jit(fit, static_argnames="steps", donate_argnums=0)

    @functools.cached_property
    def generate(self):
        """``(generator, keys, source, rows) -> (rows [S, rows, D], metrics)``; the last two are static."""

        def generate(generator, keys, source: int, rows: int):
            one = lambda gen, key: self.augmenter.generate(gen, key, source, rows)
            return self.each_seed(one, (0, 0))(generator, keys)

        return jax.jit(generate, static_argnames=("source", "rows"))

    # -- learning ----------------------------------------------------------------------------------------------------

    def _marked_update(self, phase: str, shared, own, mix_state, agent_state, key, rows, step):
        """One seed: K updates on rows `[K, B, D]`; online chosen and marked first, and the stratifier learns after."""
        mark_key, update_key, fit_key, choose_key = jax.random.split(key, 4)
        batch = self.spec.layout.unpack(rows)
        marks: Metrics = {}
        fitted: Metrics = {}
        if phase == "online" and self.mix.choose is not None:
            value = functools.partial(self.online_agent.value, agent_state)
            act = lambda obs, key: self.online_agent.act(agent_state, obs, key, True)
            mix_state, index, weight, fitted = self.mix.choose(mix_state, batch, value, act, choose_key)
            batch = self.spec.layout.unpack(rows.reshape(-1, rows.shape[-1])[index].reshape(rows.shape))
            batch = batch._replace(weight=weight.reshape(rows.shape[:2]))
        if phase == "online":
            mark_keys = jax.random.split(mark_key, rows.shape[0])
            conserve, marks = jax.vmap(self.stratifier.mark, (None, None, 0, 0))(shared, own, batch, mark_keys)
            batch = batch._replace(conserve=conserve)
        agent_state, metrics = self.agent(phase).update(agent_state, batch, update_key, step)
        if phase == "online" and self.stratifier.fit is not None:
            value = functools.partial(self.online_agent.value, agent_state)
            own, learnt = self.stratifier.fit(shared, own, batch, value, fit_key)
            fitted = fitted | learnt
        return own, mix_state, agent_state, metrics | jax.tree.map(jnp.mean, marks) | fitted

    def _update_all(self, phase: str, state: TrainState, keys, rows) -> tuple[TrainState, Metrics]:
        """All seeds: rows `[S, K, B, D]`."""
        update = functools.partial(self._marked_update, phase)
        stratifier, mix_state, agent, metrics = self._each_stratifier(update, (0, 0, 0, 0, None))(
            state.stratifier, state.mix, state.agent, keys, rows, state.step
        )
        state = state._replace(agent=agent, stratifier=stratifier, mix=mix_state, step=state.step + rows.shape[1])
        return state, metrics

    @functools.cached_property
    def offline_chunk(self):
        """``(state, meters, offline_rows, updates, phase) -> (state, meters)``; the last two are static.

        `phase` is whose update it is, "offline"; a benchmark times "online" on the same rows.
        """

        def chunk(state: TrainState, meters: Meters, offline_rows: Array, updates: int, phase: str = "offline"):
            batch, width = self.config.mix.batch_size, offline_rows.shape[1]

            def draw_offline(key):
                index = jax.random.randint(key, (updates * batch,), 0, offline_rows.shape[0])
                return offline_rows[index].reshape(updates, batch, width)

            draw_keys = purpose_keys(state.key, "offline_draw", state.step)
            update_keys = purpose_keys(state.key, "offline_update", state.step)
            state, metrics = self._update_all(phase, state, update_keys, jax.vmap(draw_offline)(draw_keys))
            return state, accumulate(meters, metrics, updates)

        return jax.jit(chunk, static_argnames=("updates", "phase"), donate_argnums=(0, 1))

    def _learn(self, state: TrainState, meters: Meters, offline_rows: Array, counts: Counts, updates: int):
        online, synthetic = state.online, state.synthetic

        def draw_one(key, online_rows, synthetic_rows):
            pool = Pool(
                offline_rows,
                Buffer(online_rows, online.position, online.size),
                {source: Buffer(rows, *synthetic[source][1:]) for source, rows in synthetic_rows.items()},
            )
            return self.mix.draw(counts, pool, key, updates)

        draw_keys = purpose_keys(state.key, "online_draw", state.step)
        update_keys = purpose_keys(state.key, "online_update", state.step)
        rows = jax.vmap(draw_one)(draw_keys, online.rows, {source: b.rows for source, b in synthetic.items()})
        state, metrics = self._update_all("online", state, update_keys, rows)
        return state, accumulate(meters, metrics, updates)

    @functools.cached_property
    def learn(self):
        """``(state, meters, offline_rows, counts, updates) -> (state, meters)``; the last two are static."""
        return jax.jit(self._learn, static_argnames=("counts", "updates"), donate_argnums=(0, 1))

    # -- acting ------------------------------------------------------------------------------------------------------

    def _act(self, phase: str, agent_state, obs, keys, explore: bool):
        """Actions `[S, ..., A]` at raw observations `[S, ..., O]`; a seed that went non-finite acts with zeros."""
        act = self.agent(phase).act
        action = jax.vmap(lambda state, obs, key: act(state, obs, key, explore))(
            agent_state, apply_observation(self.transforms.observation, obs), keys
        )
        return jnp.where(jnp.isfinite(action), action, 0.0)

    def explore(self, state: TrainState, obs: Array, t: Array, random: bool) -> Array:
        """Exploring actions `[S, A]` for environment step `t` at raw observations `[S, O]`."""
        keys = purpose_keys(state.key, "act", t)
        if random:
            uniform = lambda key: jax.random.uniform(key, (self.spec.act_dim,), minval=-1.0, maxval=1.0)
            return jax.vmap(uniform)(keys)
        return self._act("online", state.agent, obs, keys, True)

    @functools.cached_property
    def act(self):
        """``(state, obs [S, O], t, random) -> action [S, A]``."""
        return jax.jit(self.explore, static_argnames="random")

    @functools.cached_property
    def evaluate_act(self):
        """``(agent_state, obs [S, E, O], keys [S], t, phase) -> action [S, E, A]`` of the evaluation policy."""

        def evaluate_act(agent_state, obs, keys, t, phase: str):
            return self._act(phase, agent_state, obs, purpose_keys(keys, "evaluate", t), False)

        return jax.jit(evaluate_act, static_argnames="phase")

    def to_rows(self, obs, action, reward, next_obs, terminal) -> Array:
        """Raw transitions with any leading axes as transformed rows `[..., D]` of source ONLINE."""
        return self.spec.layout.pack(
            apply_observation(self.transforms.observation, obs),
            action,
            apply_reward(self.transforms.online_reward, reward),
            apply_observation(self.transforms.observation, next_obs),
            terminal,
            -jnp.inf,
            float(Source.ONLINE),
        )

    def insert_learn_act(self, state, meters, packet: Array, t, offline_rows, counts: Counts | None, random: bool):
        """Inserts one raw step of all seeds, makes ``utd`` updates unless `counts` is None, returns the next actions.

        Args:
          packet: `[S, 3 O + A + 2]` raw ``[obs | action | reward | next_obs | terminal | current obs]``, the last
            being what the next action is chosen for (after a reset, if there was one).
          t: `[]` int32, environment steps made including this one.
        """
        size, dim = self.spec.obs_dim, self.spec.act_dim
        widths = np.cumsum([size, dim, 1, size, 1])
        obs, action, reward, next_obs, terminal, current = jnp.split(packet, widths, axis=-1)
        rows = self.to_rows(obs, action, reward[:, 0], next_obs, terminal[:, 0])
        state = state._replace(online=ring.insert(state.online, rows[:, None, :]))
        if self.stratifier.observe is not None:
            keys, met = purpose_keys(state.key, "observe", t), self.spec.layout.unpack(rows).obs
            observe = lambda *args: (self.stratifier.observe(*args),)
            (observed,) = self._each_stratifier(observe, (0, 0))(state.stratifier, met, keys)
            state = state._replace(stratifier=observed)
        if counts is not None:
            state, meters = self._learn(state, meters, offline_rows, counts, self.config.online.utd)
        return state, meters, self.explore(state, current, t, random)

    @functools.cached_property
    def online_step(self):
        """`insert_learn_act`, jitted; ``counts`` and ``random`` are static, state and meters are donated."""
        return jax.jit(self.insert_learn_act, static_argnames=("counts", "random"), donate_argnums=(0, 1))

    def close_episodes(self, state: TrainState, done: Array, lengths: Array, returns: Array) -> TrainState:
        """Writes the returns-to-go of the episodes that ended with the newest row; `done`, `lengths`, `returns` `[S]`.

        `returns` are the raw sums of rewards, which the stratifier may ask for.
        """
        given, discount = self.config.transform, getattr(self.config.agent, "discount", 0.99)
        rule = ReturnRule(discount, given.failure_reward, given.failure_rule, given.truncation)
        window = min(self.spec.horizon, self.config.online.capacity)
        transformed = rule.transformed(self.transforms.online_reward)
        online = close_episodes(transformed, state.online, self.spec.layout, done, lengths, window)
        take_note = self.stratifier.judge
        if take_note is not None:

            def judge(shared, own, done, *episode):
                judged = take_note(own, *episode)
                return (jax.tree.map(lambda new, old: jnp.where(done, new, old), judged, own),)

            learning = done & (state.step > 0)  # what the policy does before updates begin judges nothing
            (judged,) = self._each_stratifier(judge, (0, 0, 0))(state.stratifier, learning, returns, lengths)
            state = state._replace(stratifier=judged)
        return state._replace(online=online)

    @functools.cached_property
    def end_episodes(self):
        """`close_episodes`, jitted; the state is donated."""
        return jax.jit(self.close_episodes, donate_argnums=0)

    def no_meters(self, phase: str) -> Meters:
        """Zeroed meters with the metric names of `phase`."""
        names = self._metric_names.get(phase, [])
        return Meters({name: jnp.zeros(self.config.seeds, jnp.float32) for name in names}, jnp.zeros((), jnp.float32))

    @functools.cached_property
    def _metric_names(self) -> dict[str, list[str]]:
        """Names of the metrics of each phase, found by tracing an update without running it."""
        shape = (self.config.seeds, 1, self.config.mix.batch_size, self.spec.layout.width)
        names = {}
        for phase in ("offline", "online"):
            state = jax.eval_shape(lambda phase=phase: self.init(phase))
            update = lambda state, rows, phase=phase: self._update_all(phase, state, state.key, rows)[1]
            names[phase] = list(jax.eval_shape(update, state, jax.ShapeDtypeStruct(shape, np.float32)))
        return names

    @functools.cached_property
    def finite(self):
        """``state -> [S]`` bool: every floating leaf of a seed's agent and stratifier is finite."""

        def finite(state: TrainState) -> Array:
            floats = lambda tree: [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]
            seeded = (state.agent, state.stratifier.own, state.mix)
            checks = [jnp.isfinite(x).reshape(x.shape[0], -1).all(axis=1) for x in floats(seeded)]
            checks += [
                jnp.broadcast_to(jnp.isfinite(x).all(), checks[0].shape) for x in floats(state.stratifier.shared)
            ]
            return jnp.stack(checks).all(axis=0)

        return jax.jit(finite)


def env_seed(config: TrainConfig, seed: int, purpose: str, *numbers: int) -> int:
    """An integer seed for a simulator, a function of the run, the seed and the purpose alone."""
    key = purpose_key(jax.random.fold_in(jax.random.key(config.run_key), config.first_seed + seed), purpose)
    entropy = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()] + list(numbers)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])
