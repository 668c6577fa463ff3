"""Writes the small parity files of this folder from the full-size ones: ``python tests/golden/shrink.py SOURCE``."""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import golden

LARGE = 256  # entries; a larger array may be summarised, see README.md
FULL_SIZE = ("full", "w1024")
SUMMARISED = {  # of these parts of a file, large arrays are kept as summaries
    "apl_gctd3bc": ("/f64/after1/", "/f64/after2/"),
    "calql_corl": ("/f64/after1/", "small_antmaze/f64/after3/", "small_uncalibrated/f64/after3/"),
    "cql_corl": ("small/f64/after1/", "small_noIS/f64/after1/", "small_noIS/f64/after3/"),
    "edis": ("/after1/", "/after3/"),
    "iql_corl": ("/f64/after1/", "small_antmaze/f64/after3/"),
    "iql_pex": ("/f64/after1/",),
    "pex": ("/f64/after1/",),
    "rlpd": ("/q/l1/", "/tq/l1/"),
    "synther_edm": ("small_layernorm/f64/grad/", "small_cond/f64/grad/", "trainer_short_schedule/f64/after3/"),
    "td3bc_corl": ("/f64/after1/", "/f64/after2/"),
}
SAMPLER_ROWS = 8  # of the 32 that the samplers' trajectories hold; rows do not depend on each other


def kept(file, z):
    """``{name: array}`` of what the small variants need."""
    arrays = {}
    for name in z.files:
        variant, *rest = name.split("/")
        value = z[name]
        if variant in FULL_SIZE:
            continue
        if file == "synther_edm" and rest and rest[-1].startswith("score_sigma"):
            if rest[0] == "f32":  # the slope follows from D; how far the float32 run is off stays
                arrays[f"{name}@error"] = np.abs(value - z[name.replace("/f32/", "/f64/")]).max()
            continue
        if "f32" in rest and value.size > 1:
            continue
        if variant.startswith("sampler_") and value.ndim >= 2:
            value = value[..., :SAMPLER_ROWS, :]
        parts = SUMMARISED.get(file, ())
        if value.dtype == np.float64 and value.size > LARGE and any(part in name for part in parts):
            arrays |= {name + suffix: summary for suffix, summary in golden.summaries(value).items()}
        else:
            arrays[name] = value
    return arrays


def pack(arrays):
    """One flat array per data type and an index; equal arrays are stored once."""
    index, places, flat, size = [], {}, {}, {}
    for name, value in arrays.items():
        value = np.ascontiguousarray(value)
        dtype, shape = value.dtype.str[1:], list(np.shape(arrays[name]))
        key = (dtype, value.tobytes())
        if key not in places:
            places[key] = size.get(dtype, 0)
            size[dtype] = places[key] + value.size
            flat.setdefault(dtype, []).append(value.ravel())
        index.append([name, dtype, shape, places[key]])
    text = np.frombuffer(json.dumps(index).encode(), np.uint8)
    return {"index": text} | {dtype: np.concatenate(parts) for dtype, parts in flat.items()}


def main(source):
    for path in sorted(pathlib.Path(source).glob("*.npz")):
        with np.load(path) as z:
            arrays = kept(path.stem, z)
        out = pathlib.Path(__file__).with_name(path.name)
        np.savez_compressed(out, **pack(arrays))
        back = golden.load(out.parent, out.name)
        assert back.files == list(arrays)
        for name, value in arrays.items():
            assert np.asarray(value).dtype == back[name].dtype
            np.testing.assert_array_equal(back[name], value)
        print(f"{out.name}: {len(arrays)} arrays, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(*sys.argv[1:])
