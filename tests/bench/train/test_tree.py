"""Trees of tensors and plain values: what is written comes back, or is refused."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.train.tree import load_tree, save_tree


def there_and_back(tree: Any, folder: Path) -> Any:
    save_tree(tree, folder / "tree.safetensors")
    return load_tree(folder / "tree.safetensors")


def test_plain_values_and_nesting_come_back(tmp_path: Path) -> None:
    tree = {"a": [1, 2.5, None, True, "é", [], {}], "b": {"c": {"d": [[{}]]}}}
    back = there_and_back(tree, tmp_path)
    assert back == tree
    assert repr(back) == repr(tree)  # 1 is not 1.0 is not True


@pytest.mark.parametrize("value", [0.1, 1e-300, 2**70, -0.0, float("inf"), 0.1 + 0.2])
def test_numbers_come_back_to_the_bit(tmp_path: Path, value: Any) -> None:
    assert repr(there_and_back(value, tmp_path)) == repr(value)


def test_whole_number_keys_stay_whole_numbers_beside_their_strings(tmp_path: Path) -> None:
    tree = {0: "zero", 1: {2: "two"}, "1": "one"}
    assert there_and_back(tree, tmp_path) == tree


def test_the_order_of_keys_is_kept(tmp_path: Path) -> None:
    assert list(there_and_back({"b": 1, "a": 2, 10: 3, 9: 4}, tmp_path)) == ["b", "a", 10, 9]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]
)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (2, 3)])
def test_tensors_come_back_to_the_bit(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3).to(dtype)
    back = there_and_back({"x": [tensor]}, tmp_path)["x"][0]
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_tensors_that_share_memory_come_back_each_on_its_own(tmp_path: Path) -> None:
    flat = torch.arange(12.0)
    tree = {"flat": flat, "view": flat[3:7], "turned": flat.view(3, 4).t(), "same": flat}
    back = there_and_back(tree, tmp_path)
    for name, tensor in tree.items():
        assert torch.equal(back[name], tensor)
    back["view"].zero_()
    assert torch.equal(back["flat"], flat)


def test_a_parameter_comes_back_as_its_values(tmp_path: Path) -> None:
    back = there_and_back([torch.nn.Parameter(torch.ones(2))], tmp_path)[0]
    assert type(back) is torch.Tensor
    assert not back.requires_grad
    assert back.tolist() == [1, 1]


def test_saving_leaves_the_tree_alone(tmp_path: Path) -> None:
    flat = torch.arange(4.0)
    tree = {"a": flat[1:], "n": (1, 2)}
    there_and_back(tree, tmp_path)
    assert tree["a"].data_ptr() == flat[1:].data_ptr()
    assert tree["n"] == (1, 2)


def test_tuples_come_back_as_lists(tmp_path: Path) -> None:
    assert there_and_back({"a": (1, (2, 3))}, tmp_path) == {"a": [1, [2, 3]]}


def test_a_tree_without_tensors_and_an_empty_one_come_back(tmp_path: Path) -> None:
    for tree in ({}, [], None, 3, {"step": 7}):
        assert there_and_back(tree, tmp_path) == tree


def test_values_that_look_like_the_packing_come_back(tmp_path: Path) -> None:
    tree = {"tensor": "0", "dict": [["a", 1]], "list": {"value": 3}, "value": {"tensor": "x"}}
    assert there_and_back(tree, tmp_path) == tree


def test_the_state_of_an_optimizer_and_of_a_generator_come_back(tmp_path: Path) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1)
    parameter.sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(3)
    torch.randn(5, generator=generator)
    back = there_and_back({"optimizer": optimizer.state_dict(), "generator": generator.get_state()}, tmp_path)
    other = torch.Generator()
    other.set_state(back["generator"])
    assert torch.equal(torch.randn(5, generator=other), torch.randn(5, generator=generator))
    twin = torch.nn.Parameter(parameter.detach().clone())
    restored = torch.optim.AdamW([twin], lr=0.5)
    restored.load_state_dict(back["optimizer"])
    for p, o in ((parameter, optimizer), (twin, restored)):
        p.grad = torch.tensor([1.0, -2.0, 0.5])
        o.step()
    assert torch.equal(twin, parameter)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"a": {"b": [1, {2}]}}, r"state\['a'\]\['b'\]\[1\] is a set"),
        ({3: object()}, r"state\[3\] is a object"),
        (np.float32(1), "state is a float32"),
        ([np.zeros(2)], r"state\[0\] is a ndarray"),
        ({"a": b"x"}, r"state\['a'\] is a bytes"),
        ({"a": 1j}, r"state\['a'\] is a complex"),
        ({"a": print}, r"state\['a'\] is a builtin_function_or_method"),
    ],
)
def test_what_a_checkpoint_cannot_hold_is_named_by_its_place(tmp_path: Path, tree: Any, said: str) -> None:
    with pytest.raises(TypeError, match=f"^{said}: a checkpoint holds tensors, numbers, strings and None"):
        save_tree(tree, tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_key_that_cannot_come_back_is_refused_on_the_way_in(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="key"):
        save_tree({"a": {(1, 2): 3}}, tmp_path / "x.safetensors")


def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    """Anywhere in the file: the header, the structure, the plain values, the tensors."""
    file, moments = tmp_path / "tree.safetensors", random.Random(3)
    tree = {
        "step": 4,
        "weights": torch.randn(8),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "moments": [torch.ones(2)],
    }
    save_tree(tree, file)
    content = file.read_bytes()
    refused = 0
    for bit in moments.sample(range(8 * len(content)), 200):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        try:
            back = load_tree(file)
        except Exception:
            refused += 1
            continue
        assert back["step"] == 4 and all(torch.equal(back[name], tree[name]) for name in ("weights", "half"))
        assert torch.equal(back["moments"][0], tree["moments"][0])
    assert refused > 190


def test_a_tree_without_a_digest_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({}, tmp_path / "old.safetensors", metadata={"tree": '{"value": 3}'})
    with pytest.raises(ValueError, match="does not match its digest"):
        load_tree(tmp_path / "old.safetensors")
