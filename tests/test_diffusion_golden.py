"""Parity with SynthER's released EDM on fixed weights, batches and noise (`golden/synther_edm.npz`).

The references are float64 runs of the released code.
"""

import functools
from types import SimpleNamespace

import golden as files
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cfdg_jax.diffusion import edm
from cfdg_jax.diffusion.fit import (
    Averaging,
    GeneratorState,
    Normaliser,
    fit_normaliser,
    fit_step,
    init_state,
    normalise,
    optimiser,
    unnormalise,
)
from cfdg_jax.diffusion.network import resmlp
from cfdg_jax.diffusion.samplers import Solver, integrate

BLOCKS = 6
LEVELS = (0.002, 0.05, 1.0, 10.0, 80.0)  # of D_sigma<i>


@pytest.fixture(scope="module")
def golden(golden_dir):
    return files.load(golden_dir, "synther_edm.npz")


THEIRS = {"in": "proj", "time1": "time1", "time2": "time2", "up": "in", "out": "out"}
THEIRS |= {f"block{i}": f"block{i}" for i in range(BLOCKS)}


def load(read, layer_norm=False):
    """Our parameter tree from ``read(name) -> array`` in the file's names."""
    params = {ours: {"kernel": read(f"{theirs}/W"), "bias": read(f"{theirs}/b")} for ours, theirs in THEIRS.items()}
    params["frequencies"] = read("fourier/freq")
    if layer_norm:
        for i in range(BLOCKS):
            params[f"norm{i}"] = {"scale": read(f"block{i}/ln_scale"), "bias": read(f"block{i}/ln_bias")}
        params["norm_out"] = {"scale": read("ln_out/scale"), "bias": read("ln_out/bias")}
    return jax.tree.map(jnp.asarray, params)


def their_names(params):
    """``{name: array}`` of our parameter tree in the file's names, without the frozen frequencies."""
    flat = {}
    for ours, theirs in THEIRS.items():
        flat |= {f"{theirs}/W": params[ours]["kernel"], f"{theirs}/b": params[ours]["bias"]}
    if "norm_out" in params:
        norms = {f"norm{i}": f"block{i}/ln_" for i in range(BLOCKS)} | {"norm_out": "ln_out/"}
        for ours, theirs in norms.items():
            flat |= {theirs + leaf: params[ours][leaf] for leaf in ("scale", "bias")}
    return flat


def small(golden, variant="small"):
    """Network, initial parameters and condition of a small variant."""
    layer_norm, conditional = variant == "small_layernorm", variant == "small_cond"
    network = resmlp(15, width=32, dim_t=16, layer_norm=layer_norm, condition_dim=2 * conditional)
    params = load(lambda name: golden[f"{variant}/init/{name}"], layer_norm)
    return SimpleNamespace(network=network, params=params, condition=golden["cond"] if conditional else None)


def normaliser(golden):
    fitted = fit_normaliser([(jnp.asarray(golden["data"]), None)], 15)
    return Normaliser(fitted.mean.at[14].set(0.0), fitted.std.at[14].set(1.0))  # the release's flag column


def noise_levels(z):
    return jnp.exp(-1.2 + 1.2 * jnp.asarray(z))


def close_to_largest(ours, reference, relative):
    np.testing.assert_allclose(ours, reference, rtol=0, atol=relative * np.abs(reference).max())


@pytest.mark.parametrize(("prefix", "sigma_data"), [("precond", 1.0), ("precond_sigma_data_half", 0.5)])
def test_coefficients(golden, prefix, sigma_data):
    sigma = jnp.asarray(golden[f"{prefix}/sigma"], jnp.float32)
    ours = edm.preconditioning(sigma, sigma_data)._asdict()
    ours["loss_weight"] = ours["c_out"] ** -2  # as the loss has it, in units of the raw network
    names = [name for name in ours if f"{prefix}/{name}" in golden]  # c_noise does not depend on sigma_data
    assert len(names) >= 4
    for name in names:
        value = ours[name]
        np.testing.assert_allclose(value, golden[f"{prefix}/{name}"], rtol=2e-6, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("steps", [16, 18, 32, 128])
def test_schedule(golden, steps):
    sigmas = edm.schedule(steps)
    np.testing.assert_allclose(sigmas, golden[f"schedule/N{steps}/sigmas"], rtol=3e-6)
    np.testing.assert_allclose(edm.churn_factors(sigmas, 80.0), golden[f"schedule/N{steps}/gammas"], rtol=1e-6)


@pytest.mark.parametrize("variant", ["small", "small_layernorm", "small_cond"])
def test_network_and_denoiser(golden, variant):
    model = small(golden, variant)
    raw = jax.jit(model.network.apply)(model.params, golden["x"], golden["t"], model.condition)
    close_to_largest(raw, golden[f"{variant}/f64/F"], 2e-6)
    denoise = jax.jit(edm.denoiser(model.network, model.params))
    for i, level in enumerate(LEVELS):
        x, sigma = jnp.asarray(golden["x"] * np.float32(np.sqrt(1 + level**2))), jnp.full(64, level)
        clean, released = functools.partial(denoise, condition=model.condition), golden[f"{variant}/f64/D_sigma{i}"]
        close_to_largest(clean(x, sigma), released, 2e-6)
        # The released code's "score" is the slope (x - D) / sigma, which equals -sigma times the score.
        slope = -edm.score(clean)(x, jnp.float32(level)) * level
        reference = (np.asarray(x, np.float64) - released) / level
        error = golden[f"{variant}/f32/score_sigma{i}@error"]  # of the released code in float32
        np.testing.assert_allclose(slope, reference, rtol=0, atol=max(3 * error, 3e-6 * np.abs(reference).max()))


def test_normaliser(golden):
    fitted, batch = normaliser(golden), jnp.asarray(golden["batch"])
    np.testing.assert_allclose(fitted.mean, golden["small/f64/normaliser/mean"], rtol=2e-6, atol=1e-7)
    np.testing.assert_allclose(fitted.std, golden["small/f64/normaliser/std"], rtol=2e-6)
    z = normalise(fitted, batch)
    varying = np.arange(15) != 7  # column 7 is constant: only the reference divides the rounding of its mean by 1e-5
    np.testing.assert_allclose(z[:, varying], golden["small/f64/normaliser/normalised"][:, varying], rtol=0, atol=5e-6)
    assert np.all(np.asarray(z[:, 7]) == 0)
    np.testing.assert_allclose(unnormalise(fitted, z), golden["small/f64/normaliser/roundtrip"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", ["small", "small_layernorm", "small_cond"])
def test_loss_and_gradients(golden, variant):
    model = small(golden, variant)
    clean = normalise(normaliser(golden), jnp.asarray(golden["batch"]))
    noise = golden[f"{variant}/noise/loss/noise"]
    sigma = noise_levels(golden[f"{variant}/noise/loss/z_sigma"])
    np.testing.assert_allclose(sigma, golden[f"{variant}/f64/loss/sigma"], rtol=1e-6)

    def loss(params):
        rows = edm.loss(model.network, params, clean, sigma, noise, model.condition)
        return rows.mean(), rows

    (mean, rows), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(model.params)
    np.testing.assert_allclose(mean, golden[f"{variant}/f64/loss/mean"], rtol=1e-5)
    np.testing.assert_allclose(rows, golden[f"{variant}/f64/loss/per_sample"], rtol=2e-5)
    assert np.all(np.asarray(gradient.pop("frequencies")) == 0)
    flat = their_names(gradient)
    assert len(flat) == len(jax.tree.leaves(gradient))
    for name, value in flat.items():
        check_summary(golden, f"{variant}/f64/grad/{name}", np.asarray(value))


@pytest.mark.parametrize(("prefix", "horizon"), [("trainer", 100_000), ("trainer_short_schedule", 4)])
def test_three_training_steps(golden, prefix, horizon):
    model, fitted = small(golden), normaliser(golden)
    clean, tx = normalise(fitted, jnp.asarray(golden["batch"])), optimiser(3e-4, horizon)
    state = init_state(model.params, tx, fitted)

    @jax.jit
    def step(state, sigma, noise):
        loss = lambda params: edm.loss(model.network, params, clean, sigma, noise).mean()
        return fit_step(state, loss, tx, Averaging())

    gradients = []
    for k in (1, 2, 3):
        noise = jnp.asarray(golden[f"trainer/noise/step{k}/noise"])
        sigma = noise_levels(golden[f"trainer/noise/step{k}/z_sigma"])
        gradients.append(
            jax.jit(jax.grad(lambda p, s, n: edm.loss(model.network, p, clean, s, n).mean()))(
                state.params, sigma, noise
            )
        )
        state, metrics = step(state, sigma, noise)
        np.testing.assert_allclose(metrics["loss"], golden[f"{prefix}/f64/loss{k}"], rtol=1e-5)
        rate = optax.cosine_decay_schedule(3e-4, horizon)(k - 1)
        np.testing.assert_allclose(rate, golden[f"{prefix}/f64/lr{k}"], rtol=1e-6)
        if k == 1 and prefix == "trainer":
            clipped = jax.tree.map(lambda g, norm=metrics["gradient_norm"]: g / jnp.maximum(norm, 1.0), gradients[0])
            np.testing.assert_allclose(optax.tree.norm(clipped), golden["trainer/f64/clipped_grad_norm1"], rtol=1e-6)
            reads_gradient = lambda n: golden[f"trainer/f64/clipped_grad1/{n}"] if n != "fourier/freq" else np.zeros(8)
            jax.tree.map(functools.partial(close_to_largest, relative=2e-5), clipped, load(reads_gradient))
            first = their_names(gradients[0])
            for name, value in their_names(state.params).items():
                compare_parameter(golden, f"trainer/f64/after1/{name}", value, first[name])
    ours, per_step = their_names(state.params), [their_names(g) for g in gradients]
    for name, value in ours.items():
        compare_parameter(golden, f"{prefix}/f64/after3/{name}", value, *(g[name] for g in per_step))
    assert int(state.step) == 3


def compare_parameter(golden, name, ours, *gradients):
    """2e-6 absolute, except where a gradient is nearly zero and Adam turns its sign into a whole step."""
    every = lambda x: np.asarray(x) if name in golden else files.summaries(x)["@s"]
    safe = np.all([np.abs(g) >= 1e-5 * np.abs(g).max() for g in gradients], axis=0)
    assert safe.mean() > 0.5 or not np.any(gradients)
    difference = np.abs(every(ours) - golden[name if name in golden else f"{name}@s"])
    assert difference[every(safe).astype(bool)].max(initial=0) < 2e-6
    assert difference.max() < 1e-3


@pytest.mark.parametrize(("variant", "churn"), [("sampler_churn80", 80.0), ("sampler_deterministic", 0.0)])
def test_sampler_trajectory(golden, variant, churn):
    model, calls = small(golden), []
    denoise = jax.jit(edm.denoiser(model.network, model.params))

    def recorded(x, sigma):
        clean = denoise(x, sigma)
        calls.append((np.asarray(x), float(sigma), np.asarray((x - clean) / sigma)))
        return clean

    noise = golden[f"{variant}/noise/churn"] if churn else None
    with jax.disable_jit():
        start = jnp.asarray(golden[f"{variant}/noise/init"])
        solver = Solver(steps=16, churn=churn)
        z = integrate(lambda x, s: recorded(x, s), solver, start, lambda step: jnp.asarray(noise[int(step)]))
    assert len(calls) == solver.evaluations == golden[f"{variant}/f64/n_evals"]
    predictor, corrector = calls[0::2], calls[1::2]
    for ours, names in ((predictor, ("x_hat", "euler_slope")), (corrector, ("x_euler", "heun_slope"))):
        for part, name in zip((0, 2), names, strict=True):
            reference = golden[f"{variant}/f64/{name}"]
            assert len(ours) == len(reference)
            for call, expected in zip(ours, reference, strict=True):
                close_to_largest(call[part], expected, 5e-5)
    np.testing.assert_allclose([sigma for _, sigma, _ in predictor], golden[f"{variant}/f64/sigma_hat"], rtol=3e-6)
    close_to_largest(z, golden[f"{variant}/f64/final_normalised"], 2e-5)
    close_to_largest(unnormalise(normaliser(golden), z), golden[f"{variant}/f64/final"], 2e-5)
    jitted = jax.jit(lambda start: integrate(denoise, solver, start, lambda step: jnp.asarray(noise)[step]))
    close_to_largest(jitted(golden[f"{variant}/noise/init"]), golden[f"{variant}/f64/final_normalised"], 2e-5)


def test_weight_average(golden):
    """ema-pytorch 0.8.3 over 5000 calls; 0.2.1 copies once more at call 111."""
    averaging, steps = Averaging(), golden["ema/steps"]

    def body(average, call):
        online = jnp.sin(call / 300) + call / 1000
        average = averaging.update(average, online, call)
        return average, average

    _, averages = jax.jit(lambda: jax.lax.scan(body, jnp.zeros(()), jnp.arange(1, 5001)))()
    np.testing.assert_allclose(averages[steps - 1], golden["ema/ema_v0_8_3"], rtol=3e-6)
    np.testing.assert_allclose(averaging.decay_at(steps), golden["ema/decay_after_call"], rtol=1e-6)


def test_width_1024(golden_full_dir):
    """SynthER's online size: network, denoiser, loss, gradients and an eight-step stochastic sample."""
    golden = files.load(golden_full_dir, "synther_edm.npz")
    draws, arrays = np.random.RandomState(2024), {}
    shapes = {"proj": (42, 256), "time1": (17, 256), "time2": (256, 256), "in": (256, 1024), "out": (1024, 42)}
    shapes |= {f"block{i}": (1024, 1024) for i in range(BLOCKS)}
    for name, checksum in zip(golden["w1024/order"], golden["w1024/checksum"], strict=True):
        layer, kind = str(name).split("/")
        shape = shapes[layer] if kind == "W" else shapes[layer][1:]
        scale = 1.5 * 2.0 ** np.round(np.log2(shape[0] ** -0.5)) if kind == "W" else 0.25
        arrays[str(name)] = (draws.randint(-16, 17, size=shape) / 16 * scale).astype(np.float32)
        np.testing.assert_allclose(arrays[str(name)].sum(dtype=np.float64), checksum, rtol=1e-9)
    params = load((arrays | {"fourier/freq": golden["w1024/fourier_freq"]}).__getitem__)
    network = resmlp(42, width=1024, dim_t=256)
    x, denoise = jnp.asarray(golden["w1024/x"]), jax.jit(edm.denoiser(network, params))
    close_to_largest(jax.jit(network.apply)(params, x, golden["w1024/t"]), golden["w1024/f64/F"], 5e-6)
    close_to_largest(denoise(x, jnp.float32(1.0)), golden["w1024/f64/D_sigma1"], 5e-6)
    close_to_largest(denoise(10 * x, jnp.float32(10.0)), golden["w1024/f64/D_sigma10"], 5e-6)
    sigma, noise = noise_levels(golden["w1024/noise/loss/z_sigma"]), golden["w1024/noise/loss/noise"]
    loss = lambda params: edm.loss(network, params, x, sigma, noise).mean()
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, golden["w1024/f64/loss"], rtol=1e-5)
    for name, value in their_names(gradient).items():
        check_summary(golden, f"w1024/f64/grad/{name}", np.asarray(value))
    churn = jnp.asarray(golden["w1024/noise/sample/churn"])
    start = jnp.asarray(golden["w1024/noise/sample/init"])
    drawn = jax.jit(lambda start: integrate(denoise, Solver(steps=8), start, lambda step: churn[step]))(start)
    close_to_largest(drawn, golden["w1024/f64/sample8"], 5e-5)


def check_summary(golden, name, array):
    """An array against its stored entries, or where it is large, against every 1/32nd entry, its norm and a sum."""
    if name in golden:
        return close_to_largest(array, golden[name], 2e-5)
    ours = files.summaries(array)
    close_to_largest(ours["@s"], golden[f"{name}@s"], 5e-5)
    np.testing.assert_allclose(ours["@l2"], golden[f"{name}@l2"], rtol=2e-5)
    np.testing.assert_allclose(ours["@dot"], golden[f"{name}@dot"], rtol=0, atol=2e-4 * golden[f"{name}@l2"])


def test_state_is_float32(golden):
    model = small(golden)
    state = init_state(model.params, optimiser(3e-4, 10), normaliser(golden))
    assert isinstance(state, GeneratorState)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32"), jnp.dtype("int32")}
