"""The packed parity fixtures: complete, small, and equal to the full-size ones where those are at hand."""

import golden
import numpy as np
import pytest

FILES = [
    "apl_gctd3bc", "calql_corl", "cql_corl", "data_d4rl", "edis", "iql_corl", "iql_pex", "pex", "rlpd", "synther_edm",
    "td3bc_corl",
]  # fmt: skip


def test_all_files_are_there_and_small(golden_dir):
    files = {path.stem: path.stat().st_size for path in golden_dir.glob("*.npz")}
    assert sorted(files) == FILES
    assert sum(files.values()) <= 3_000_000
    readme = (golden_dir / "README.md").read_text()
    assert all(f"| `{name}` |" in readme for name in files)


@pytest.mark.parametrize("file", FILES)
def test_packed_arrays_equal_the_full_size_ones(golden_dir, golden_full_dir, file):
    packed, full = (golden.load(folder, f"{file}.npz") for folder in (golden_dir, golden_full_dir))
    summarised = 0
    for name in packed.files:
        base, _, summary = name.partition("@")
        if summary == "error" or base not in full.files:  # the full-size file may hold summaries itself
            continue
        value = golden.summaries(full[base])["@" + summary] if summary else full[base]
        summarised += bool(summary)
        if np.shape(value) != packed[name].shape:  # the samplers' rows are cut
            value = value[..., : packed[name].shape[-2], :]
        rtol = 1e-12 if summary else 0.0  # sums may be added up in another order
        np.testing.assert_allclose(packed[name], value, rtol=rtol, atol=rtol, err_msg=name)
        assert packed[name].dtype == value.dtype
    assert summarised or file == "data_d4rl"
