from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file

from spike_ops import SpikeTensor
from spike_ops._files import load_spikes, save_spikes


def spikes_of(*shape, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return SpikeTensor.from_dense((torch.rand(shape, generator=generator) < 0.3).to(dtype))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spikes.safetensors"


@pytest.mark.parametrize("shape", [(), (0, 3), (9,), (4, 5, 6)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_was_saved_is_loaded(path, shape, dtype):
    spikes = spikes_of(*shape, dtype=dtype)
    save_spikes(spikes, path)
    loaded = load_spikes(path)
    assert isinstance(loaded, SpikeTensor)
    assert (loaded.shape, loaded.dtype) == (spikes.shape, dtype)
    assert torch.equal(loaded.to_dense(), spikes.to_dense())


def test_names_views_and_transposes(path):
    spikes = spikes_of(6, 8)
    named = {"all": spikes, "turned": spikes.t(), "a row": spikes[2]}
    save_spikes(named, path)
    loaded = load_spikes(path)
    assert list(loaded) == sorted(named)
    for name, each in named.items():
        assert torch.equal(loaded[name].to_dense(), each.to_dense())
    save_spikes({"spikes": spikes}, path)
    assert list(load_spikes(path)) == ["spikes"]


def test_a_spike_takes_one_bit(path):
    save_spikes(spikes_of(1000, 80), path)
    assert load_file(path)["spikes"].numel() == 10_000
    assert path.stat().st_size < 10_400


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_files_cut_short_or_changed_are_refused_or_spikes(tmp_path_factory, place, byte):
    path = tmp_path_factory.mktemp("files") / "spikes.safetensors"
    save_spikes(spikes_of(5, 7), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: place % len(whole)])
    with pytest.raises(ValueError, match="is not a file of spikes"):
        load_spikes(path)
    changed = bytearray(whole)
    changed[place % len(whole)] = byte
    path.write_bytes(changed)
    try:
        loaded = load_spikes(path)
    except ValueError:
        return
    values = loaded if isinstance(loaded, SpikeTensor) else next(iter(loaded.values()))
    assert values.to_dense().sum() == values.count


def test_foreign_files_are_refused(path):
    save_file({"spikes": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match="its format is None"):
        load_spikes(path)
    path.write_text("no spikes at all")
    with pytest.raises(ValueError, match="is not a file of spikes"):
        load_spikes(path)
    told = {"format": "spike-ops spikes 1", "spikes.spikes": '{"shape": [3], "dtype": "float32"}'}
    save_file({"spikes": torch.zeros(3)}, path, metadata=told)
    with pytest.raises(ValueError, match="flat tensor of uint8"):
        load_spikes(path)
    with pytest.raises(FileNotFoundError):
        load_spikes(path.with_name("nothing"))


@pytest.mark.parametrize(
    "wrong, rule",
    [
        ({"x": torch.zeros(3)}, "must be SpikeTensor, got Tensor for 'x'"),
        (torch.zeros(3), "a mapping from names to them, got Tensor"),
        ([spikes_of(3)], "a mapping from names to them, got list"),
        ({1: spikes_of(3)}, "names of text, got 1"),
    ],
)
def test_only_spikes_are_saved(wrong, rule, path):
    path.write_bytes(b"kept")
    with pytest.raises(TypeError, match=rule):
        save_spikes(wrong, path)
    assert path.read_bytes() == b"kept"


def test_a_file_in_a_folder_that_is_not_there_is_refused_by_its_own_name(path):
    missing = path.parent / "none" / "spikes.safetensors"
    with pytest.raises(FileNotFoundError, match=f"in a folder that is there, got {missing}$"):
        save_spikes(spikes_of(3), missing)


def test_spikes_whose_writing_fails_leave_the_file_as_it_was(path, monkeypatch):
    save_spikes(spikes_of(3), path)
    before = path.read_bytes()

    def full(bits, file, metadata):
        Path(file).write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("spike_ops._files.save_file", full)
    with pytest.raises(OSError, match="no space left"):
        save_spikes(spikes_of(4), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
