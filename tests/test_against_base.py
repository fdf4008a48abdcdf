"""An update beside the weight that it is added to: sizes, intruders, alignment, merges, all from full matrices too."""

import json

import pytest
import torch
import transformers
from adapter_folders import adapted, base, bert, files, folder, mixture_of_experts, moved, pair, run
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2Model, LlamaConfig, LlamaForCausalLM

from lorabook import device
from lorabook.adapters import AdapterError, inspect_folder
from lorabook.adapters.against_base import DENSE, against_base, intruders, leading_left, left_singular
from lorabook.adapters.base_weights import BaseWeights

f64 = torch.float64


def normal(*shape, seed=0):
    return device.normal(shape, device.generator(seed), "cpu")


def weights(path, tensors, dtype=torch.float32):
    path.mkdir(exist_ok=True)
    save_file({key: value.to(dtype).contiguous() for key, value in tensors.items()}, path / "model.safetensors")
    return path


def beside(adapter, model, **options):
    """The measures of the only adapter, by module."""
    (found,) = against_base([inspect_folder(adapter)[0]], model, **options)
    return found


# ---------------------------------------------------------------- what is measured


@pytest.mark.parametrize("m, n", [(30, 20), (20, 30), (25, 25)])
@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_measure_is_that_of_the_full_matrices(tmp_path, m, n, size, dtype):
    W0 = normal(m, n, seed=1).to(dtype)
    B, A = (factor.float() for factor in pair(m, n, 3, seed=2))
    adapter = folder(tmp_path / "a", {"x": (size * B, A)}, {"lora_alpha": 6})
    one = beside(adapter, weights(tmp_path / "b", {"x.weight": W0}, dtype), top=5)["x"]
    W, X = W0.double(), 2 * (size * B).double() @ A.double()
    (U, s, Vh), merged = torch.linalg.svd(W, full_matrices=False), torch.linalg.svd(W + X, full_matrices=False)
    # float64 all through, from the same stored numbers
    assert one.ratio == pytest.approx(float(X.norm() / W.norm()), rel=1e-12)
    assert one.spectral_ratio == pytest.approx(float(torch.linalg.matrix_norm(X, 2) / s[0]), rel=1e-12)
    assert one.intruders == int(((merged.U[:, :5].mT @ U).abs().amax(1) < 0.5).sum()) and one.examined == 5
    assert one.left == pytest.approx(float((U[:, :5].mT @ X).square().sum() / X.square().sum()), rel=1e-10)
    assert one.right == pytest.approx(float((X @ Vh[:5].mT).square().sum() / X.square().sum()), rel=1e-10)
    rounded = (W + X).to(dtype).double()
    assert one.lost == pytest.approx(float((rounded - W - X).norm() / X.norm()), rel=1e-10)
    assert one.unchanged == float((rounded == W).double().mean()) and one.dtype == str(dtype).removeprefix("torch.")


def test_a_new_direction_is_an_intruder_and_a_change_along_the_old_ones_is_none(tmp_path):
    # two singular vectors of which nothing is left out, and one outside of all others
    m, n, k = 24, 12, 8
    U, V = torch.linalg.qr(normal(m, m)).Q, torch.linalg.qr(normal(n, n, seed=1)).Q
    W0 = (U[:, :k] * torch.linspace(2, 1, k)) @ V[:, :k].mT
    cases = {
        "along": ((3 * U[:, 1:2]), V[:, 1:2].mT, 0),
        "outside": ((9 * U[:, k:].mean(1, keepdim=True)), V[:, k : k + 1].mT, 1),
        "small": ((0.01 * U[:, k : k + 1]), V[:, k : k + 1].mT, 0),
    }
    for name, (B, A, wanted) in cases.items():
        path = folder(tmp_path / name, {"x": (B, A)}, dtype=f64)
        one = beside(path, weights(tmp_path / f"{name}-base", {"x.weight": W0}, f64), top=k)["x"]
        # W0 has rank k: its other left singular vectors lie outside of U[:, :k] anywhere
        assert one.intruders == (wanted if name != "outside" else one.intruders), name
    assert intruders(torch.eye(4, dtype=f64)[:, :2], torch.eye(4, dtype=f64)[:, 1:3], 0.5) == 1
    turned = torch.tensor([[0.4, 0.6], [0.4, 0.6], [0.4, 0.0], [0.7, 0.5]], dtype=f64)
    assert intruders(torch.eye(4, dtype=f64)[:, :3], turned, 0.5) == 1
    assert intruders(torch.eye(4, dtype=f64)[:, :3], turned, 0.65) == 2


def test_an_update_far_below_the_rounding_of_its_base_is_lost_in_a_merge(tmp_path, capsys):
    W0 = normal(40, 30, seed=1)
    B, A = pair(40, 30, 2)
    for size, dtype, kept in ((1e-5, torch.bfloat16, False), (1e-5, torch.float32, True), (1.0, torch.bfloat16, True)):
        adapter = folder(tmp_path / f"{size}{dtype}", {"x": (size * B, A)})
        model = weights(tmp_path / f"b{size}{dtype}", {"x.weight": W0}, dtype)
        one = beside(adapter, model)["x"]
        assert (one.lost < 0.05) == kept and (one.lost > 0.9) == (not kept)
        assert run(adapter, "--model", model) == 0
        assert ("a merge would lose more than half" in " ".join(capsys.readouterr().out.split())) == (not kept)


def test_a_module_that_never_moved_has_no_shares(tmp_path):
    B, A = pair(10, 8, 2)
    one = beside(folder(tmp_path / "a", {"x": (0 * B, A)}), weights(tmp_path / "b", {"x.weight": normal(10, 8)}))["x"]
    assert (one.ratio, one.spectral_ratio, one.intruders, one.left, one.right, one.lost) == (0, 0, 0, None, None, None)
    assert one.unchanged == 1


def test_without_decompositions_the_sizes_and_the_merge_remain(tmp_path, capsys):
    adapter = folder(tmp_path / "a", {"x": pair(10, 8, 2)})
    model = weights(tmp_path / "b", {"x.weight": normal(10, 8)})
    one, whole = beside(adapter, model, top=0)["x"], beside(adapter, model)["x"]
    assert one.ratio == whole.ratio and one.lost == whole.lost
    assert one.spectral_ratio is one.intruders is one.left is one.right is None
    assert run(adapter, "--model", model, "--top", "0") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 100


@pytest.mark.parametrize("m, n", [(DENSE + 40, DENSE + 90), (DENSE + 90, DENSE + 40)])
def test_the_faster_ways_above_a_size_are_those_of_the_full_decomposition(m, n):
    W = normal(m, n)
    W += 30 * normal(m, 3, seed=1) @ normal(3, n, seed=2) / (m * n) ** 0.25
    U, s, Vh = torch.linalg.svd(W, full_matrices=False)
    left, values, right = left_singular(W, 6)
    # the Gram matrix has the squares: 1e-16 of the largest, over gaps
    assert torch.allclose(values, s, rtol=1e-10)
    assert torch.allclose((U.mT @ left).abs().diagonal(), torch.ones(len(s), dtype=f64), atol=1e-6)
    assert torch.allclose((Vh[:6] @ right).abs().diagonal(), torch.ones(6, dtype=f64), atol=1e-9)
    X = normal(m, 4, seed=5) @ normal(4, n, seed=6) / 5
    wanted = torch.linalg.svd(W + X, full_matrices=False).U[:, :6]
    found = leading_left(W + X, 6, torch.cat([left[:, :6], normal(m, 4, seed=5)], 1))
    # residuals of 1e-6 over gaps of a hundredth
    assert torch.allclose((wanted.mT @ found).abs().diagonal(), torch.ones(6, dtype=f64), atol=1e-6)


# ---------------------------------------------------------------- which weight


def test_the_base_of_an_adapter_that_peft_trained_is_found(tmp_path):
    model = bert()
    base(tmp_path / "whole", model)
    base(tmp_path / "inner", model.bert)
    wanted = {name: value for name, value in model.named_parameters()}
    path = tmp_path / "adapter"
    adapted(model, target_modules=["query", "output.dense", "word_embeddings"]).save_pretrained(path)
    for place in ("whole", "inner"):
        for name, one in beside(path, tmp_path / place).items():
            W0 = wanted[name.replace("base_model.", "") + ".weight"].detach().double()
            X = next(m for m in inspect_folder(path)[1] if m.name == name)
            # float64 from the stored float32
            assert one.ratio == pytest.approx(X.norm / float(W0.norm()), rel=1e-10), name


def test_a_weight_that_is_stored_as_its_transpose_is_turned(tmp_path):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "vocab_size": 10}
    model = GPT2Model(GPT2Config(**sizes))
    model.save_pretrained(tmp_path / "base")
    options = LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, init_lora_weights=False)
    lora = get_peft_model(model, options)
    lora.save_pretrained(tmp_path / "adapter")
    found = beside(tmp_path / "adapter", tmp_path / "base", top=3)
    for name, layer in lora.named_modules():
        if hasattr(layer, "get_delta_weight"):
            one = found[name.removeprefix("base_model.model.")]
            W, X = layer.get_base_layer().weight.detach().double().mT, layer.get_delta_weight("default").double().mT
            U = torch.linalg.svd(W).U[:, :3]
            # PEFT forms the product in float32
            assert one.left == pytest.approx(float((U.mT @ X).square().sum() / X.square().sum()), rel=1e-4), name


def test_experts_are_measured_beside_their_slice_and_those_on_their_own_too(tmp_path):
    fused, single = normal(3, 8, 6), normal(8, 6, seed=4)
    model = weights(tmp_path / "b", {"mlp.experts.w": fused, "mlp.experts.0.up.weight": single}, f64)
    config = {"r": 4, "target_parameters": ["mlp.experts.w"]}
    path = folder(tmp_path / "a", {"mlp.experts": pair(8, 6, 12), "mlp.experts.0.up": pair(8, 6, 4)}, config)
    found, norms = beside(path, model), {one.name: one.norm for one in inspect_folder(path)[1]}
    for expert in range(3):
        label = f"mlp.experts.w[{expert}]"
        assert found[label].ratio == pytest.approx(norms[label] / float(fused[expert].norm()), rel=1e-10)
    assert found["mlp.experts.0.up"].ratio == pytest.approx(norms["mlp.experts.0.up"] / float(single.norm()), rel=1e-10)


def test_a_layer_stands_for_itself_alone(tmp_path):
    model = weights(
        tmp_path / "b",
        {
            "text.layers.0.q.weight": normal(5, 6),
            "vision.layers.0.q.weight": normal(5, 6),
            "text.layers.1.q.weight": normal(5, 6),
            "text.layers.2.q.weight": normal(4, 4),
        },
    )
    names = ["m.layers.0.q", "m.layers.1.q", "m.layers.2.q", "m.layers.3.q", "a.text.layers.0.q"]
    found = beside(folder(tmp_path / "a", {name: pair(5, 6, 2) for name in names}), model)
    assert found["m.layers.0.q"] == found["m.layers.3.q"] == "the base has no weight of this name"
    assert found["m.layers.2.q"] == "the base's weight is (4, 4), the update (5, 6)"
    assert not isinstance(found["m.layers.1.q"], str) and not isinstance(found["a.text.layers.0.q"], str)


def test_fused_experts_stand_beside_the_weights_that_the_files_hold_apart(tmp_path):
    """huggingface/peft 3112, vllm-project/vllm 52194: one parameter in memory, a weight for each expert in files."""
    model = mixture_of_experts()
    model.save_pretrained(tmp_path / "base")
    stored = load_file(tmp_path / "base" / "model.safetensors")
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in stored
    parameters = [f"mlp.experts.{name}" for name in ("gate_up_proj", "down_proj")]
    lora = adapted(model, target_modules=["q_proj"], target_parameters=parameters, task_type=None)
    lora.save_pretrained(tmp_path / "a")
    found = beside(tmp_path / "a", tmp_path / "base")
    norms = {one.name: one for one in inspect_folder(tmp_path / "a")[1]}
    experts = mixture_of_experts().model.layers[0].mlp.experts
    for name in ("gate_up_proj", "down_proj"):
        for expert in range(3):
            label = f"model.layers.0.mlp.experts.{name}[{expert}]"
            W0 = getattr(experts, name)[expert].detach().double()
            assert tuple(W0.shape) == norms[label].shape
            assert found[label].ratio == pytest.approx(norms[label].norm / float(W0.norm()), rel=1e-12)
            # the halves in their order: the largest singular value and the spaces are those of the joined weight
            top = float(torch.linalg.matrix_norm(W0, 2))
            assert found[label].spectral_ratio == pytest.approx(norms[label].largest / top, rel=1e-9)


def test_halves_of_fused_experts_are_joined_in_the_order_that_transformers_gives_them(tmp_path):
    mixture_of_experts().save_pretrained(tmp_path)
    base = BaseWeights(tmp_path)
    W = base.weight("model.layers.0.mlp.experts.gate_up_proj", (12, 8), 1, False)
    assert torch.equal(W.matrix, mixture_of_experts().model.layers[0].mlp.experts.gate_up_proj[1])
    assert base.weight("model.layers.0.mlp.experts.gate_up_proj", (12, 8), 3, False) == (
        "the base has no weight of this name"
    )


@pytest.mark.parametrize("family", "Mixtral Qwen2Moe DeepseekV3 GptOss GraniteMoe Ernie4_5_Moe Qwen3Next".split())
def test_experts_are_found_in_the_files_of_many_families(tmp_path, family):
    sizes = dict.fromkeys("num_hidden_layers moe_layer_start_index num_experts_per_tok n_group topk_group".split(), 1)
    sizes |= dict.fromkeys("num_experts num_local_experts n_routed_experts moe_num_experts".split(), 3)
    sizes |= dict.fromkeys("moe_intermediate_size shared_expert_intermediate_size head_dim".split(), 8)
    sizes |= dict.fromkeys("kv_lora_rank q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim".split(), 4)
    sizes |= {"vocab_size": 16, "hidden_size": 16, "intermediate_size": 24, "layer_types": ["full_attention"]}
    sizes |= {
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "moe_layer_start_index": 0,
        "first_k_dense_replace": 0,
    }
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes, pad_token_id=0, eos_token_id=1, bos_token_id=1)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(tmp_path)
    base, seen = BaseWeights(tmp_path), 0
    for name, parameter in model.named_parameters():
        room, _, own = name.rpartition(".")
        if own in ("gate_up_proj", "down_proj") and parameter.ndim == 3:
            turned = getattr(model.get_submodule(room), "is_transposed", False)
            for expert in range(3):
                W = parameter[expert].mT if turned else parameter[expert]
                found = base.weight(name, tuple(W.shape), expert, False)
                assert torch.equal(found.matrix, W), (name, found)
                seen += 1
    assert seen == 6


@pytest.mark.parametrize("inputs_first", [False, True])
@pytest.mark.parametrize("width, inner", [(6, 6), (6, 3)])
def test_square_experts_are_turned_as_the_others_of_their_module_are(tmp_path, inputs_first, width, inner):
    """As in gpt-oss, whose down_proj is square and stored with its inputs first, and as in Qwen3-MoE, with outputs."""
    stored = {"gate_up_proj": normal(2, 2 * inner, width), "down_proj": normal(2, width, inner, seed=1)}
    turn = lambda W: W.mT if inputs_first else W
    weights(tmp_path, {f"layers.0.mlp.experts.{name}": turn(W) for name, W in stored.items()})
    for name, W in stored.items():
        found = BaseWeights(tmp_path).weight(f"layers.0.mlp.experts.{name}", tuple(W.shape[1:]), 1, False)
        assert torch.equal(found.matrix, W[1].float())


def test_an_output_layer_that_shares_its_weight_stands_beside_the_embedding_and_a_merge_is_warned_of(tmp_path, capsys):
    """huggingface/peft 2018."""
    E = normal(9, 6).float()
    model = weights(tmp_path / "b", {"model.embed_tokens.weight": E, "model.layers.0.q.weight": normal(5, 6)})
    path = folder(tmp_path / "a", {"lm_head": pair(9, 6, 2), "model.layers.0.q": pair(5, 6, 2)})
    found, norms = beside(path, model), {one.name: one.norm for one in inspect_folder(path)[1]}
    assert found["lm_head"].tied and not found["model.layers.0.q"].tied
    assert found["lm_head"].ratio == pytest.approx(norms["lm_head"] / float(E.double().norm()), rel=1e-12)
    assert run(path, "--model", model) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "lm_head shares its weight with the embedding (model.embed_tokens.weight): a merge changes both" in out
    weights(model, {"model.embed_tokens.weight": normal(8, 7), "model.layers.0.q.weight": normal(5, 6)})
    assert beside(path, model)["lm_head"] == "the base has no weight of this name"


@pytest.mark.parametrize("own, there", [("layers.0.q", "model.layers.0.q"), ("bert.layers.0.q", "layers.0.q")])
def test_a_base_of_another_class_is_measured_and_said_to_be_that(tmp_path, capsys, own, there):
    """huggingface/peft 1579, vllm-project/vllm 39278: PEFT finds no place for such an adapter."""
    path = folder(tmp_path / "a", {own: pair(5, 6, 2)})
    for name, word in ((there, True), (own, False)):
        model = weights(tmp_path / "b", {f"{name}.weight": normal(5, 6)})
        assert run(path, "--model", model) == 0
        out = capsys.readouterr().out
        assert ("the base's files name 1 module otherwise" in out) == word


def test_both_towers_are_found_under_the_names_that_their_files_give_them(tmp_path):
    """unslothai/unsloth-zoo 1234, illuin-tech/colpali 424: modules and files name the towers differently."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = LlamaConfig(**sizes, vocab_size=40, num_key_value_heads=2)
    vision = transformers.CLIPVisionConfig(**sizes, image_size=8, patch_size=4)
    torch.manual_seed(0)
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))
    model.save_pretrained(tmp_path / "b")
    own = {name: layer.weight for name, layer in model.named_modules() if name.endswith("q_proj")}
    adapted(model, target_modules=["q_proj"], task_type=None).save_pretrained(tmp_path / "a")
    adapter, measured = inspect_folder(tmp_path / "a")
    (found,) = against_base([adapter], tmp_path / "b", top=0)
    assert len(measured) == len({one.key for one in found.values()}) == 2
    for one in measured:
        # the stored numbers, in float64
        assert found[one.name].ratio == pytest.approx(one.norm / float(own[one.name].double().norm()), rel=1e-12)


@pytest.mark.parametrize("ensured", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_a_merge_adds_both_updates_to_a_weight_that_two_layers_share(tmp_path, capsys, ensured):
    """huggingface/peft 2777."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=11, num_key_value_heads=2, tie_word_embeddings=True))
    model.save_pretrained(tmp_path / "b")
    before = model.lm_head.weight.detach().clone()
    options = {"target_modules": ["embed_tokens", "lm_head"], "task_type": None, "ensure_weight_tying": ensured}
    made = adapted(model, **options)
    made.save_pretrained(tmp_path / "a")
    layers = made.base_model.model.model.embed_tokens, made.base_model.model.lm_head
    X, Y = (layer.get_delta_weight("default").detach() for layer in layers)
    assert torch.allclose(X, Y) == ensured
    merged = made.merge_and_unload()
    assert merged.lm_head.weight is merged.model.embed_tokens.weight
    # float32
    torch.testing.assert_close(merged.lm_head.weight - before, X + Y, rtol=1e-4, atol=1e-6)
    assert run(tmp_path / "a", "--model", tmp_path / "b") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "lm_head shares its weight with the embedding (model.embed_tokens.weight): a merge adds the updates of" in out
    )
    assert "twice the same one under ensure_weight_tying" in out
    found = beside(tmp_path / "a", tmp_path / "b")
    assert {(one.lost, one.copies, one.overflows) for one in found.values()} == {(None, 2, 0)}


@pytest.mark.parametrize("end", ["qweight", "weight_packed", "W_q"])
def test_a_quantised_base_is_told_from_one_that_lacks_the_module(tmp_path, end):
    """huggingface/peft 2586, and the formats of GPTQ, AWQ, compressed-tensors and HQQ."""
    (tmp_path / "b").mkdir()
    save_file({f"layers.0.q.{end}": torch.ones(5, 3, dtype=torch.int32)}, tmp_path / "b" / "model.safetensors")
    path = folder(tmp_path / "a", {"layers.0.q": pair(5, 6, 2)})
    with pytest.raises(AdapterError, match="layers.0.q: the base's weight is quantised"):
        beside(path, tmp_path / "b")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8])
def test_a_base_of_eight_bits_fits_and_cannot_be_measured(tmp_path, capsys, dtype):
    path = folder(tmp_path / "a", {f"layers.{k}.q": pair(5, 6, 2) for k in range(2)})
    stored = {f"layers.{k}.q.weight": torch.ones(5, 6).to(dtype) for k in range(2)}
    (tmp_path / "b").mkdir()
    save_file(stored, tmp_path / "b" / "model.safetensors")
    assert run(path, "--model", tmp_path / "b") == 1
    err = capsys.readouterr().err
    assert "has modules of the adapter, but they are quantised" in err and "fits no module" not in err
    save_file(stored | {"layers.1.q.weight": torch.ones(5, 6)}, tmp_path / "b" / "model.safetensors")
    assert run(path, "--model", tmp_path / "b") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "not measured beside the base, the base's weight is quantised" in out and "no base weight" not in out
    save_file({"layers.0.q.weight": torch.ones(7, 7).to(dtype)}, tmp_path / "b" / "model.safetensors")
    if dtype != torch.uint8:  # whose shape may be that of packed numbers
        assert run(path, "--model", tmp_path / "b") == 1
        assert "fits no module of the adapter (layers.0.q: the base's weight is (7, 7)" in capsys.readouterr().err


def test_a_layer_that_peft_repeats_stands_beside_the_one_that_it_is(tmp_path, capsys):
    torch.manual_seed(0)
    sizes = {"vocab_size": 10, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))
    model.save_pretrained(tmp_path / "b")
    ranges = [[0, 1], [0, 2], [1, 2]]
    lora = adapted(model, target_modules=["q_proj"], task_type="CAUSAL_LM", layer_replication=ranges)
    lora.save_pretrained(tmp_path / "a")
    found = beside(tmp_path / "a", tmp_path / "b")
    assert len(found) == 4
    for name, layer in lora.named_modules():
        if isinstance(layer, LoraLayer):
            one, W0 = found[name.removeprefix("base_model.model.")], layer.get_base_layer().weight
            X = layer.get_delta_weight("default")
            # PEFT forms the product in float32
            assert one.ratio == pytest.approx(float(X.norm() / W0.norm()), rel=1e-5), name
    config = tmp_path / "a" / "adapter_config.json"
    for wrong in (["x"], [[0, "1"]], [3]):
        config.write_text(json.dumps(json.loads(config.read_text()) | {"layer_replication": wrong}))
        assert run(tmp_path / "a", "--model", tmp_path / "b") == 1
        assert "layer_replication must be a list of ranges" in capsys.readouterr().err


# ---------------------------------------------------------------- the command


@pytest.fixture
def home(tmp_path):
    """An adapter of two modules and its base."""
    folder(tmp_path / "a", {f"layers.{k}.q": pair(12, 10, 2, k) for k in range(2)})
    weights(tmp_path / "b", {f"layers.{k}.q.weight": normal(12, 10, seed=9 + k) for k in range(2)})
    return tmp_path


def test_the_command_prints_both_tables_and_json_has_the_same(home, capsys):
    assert run(home / "a", "--model", home / "b", "--top", "4", "--threshold", "0.6") == 0
    out = capsys.readouterr().out
    assert "|X|/|W0|" in out and "is below 0.6" in out and "leading 4 left" in out
    assert max(map(len, out.splitlines())) <= 100
    assert run(home / "a", "--model", home / "b", "--json") == 0
    report = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    wanted = beside(home / "a", home / "b")
    assert {one["name"]: one["base"] for one in report["modules"]} == {k: vars(v) for k, v in wanted.items()}


def test_the_figure_of_the_base_is_one_file(home, capsys):
    assert run(home / "a", "--model", home / "b", "--plot", home / "base.svg") == 0
    text = (home / "base.svg").read_text()
    assert text.startswith("<svg") and "currentColor" in text
    assert [path.name for path in home.glob("*.svg")] == ["base.svg"]


def test_with_several_folders_the_base_stands_beside_each(home, capsys):
    folder(home / "c", {f"layers.{k}.q": pair(12, 10, 3, 5 + k) for k in range(2)})
    assert run(home / "a", home / "c", "--model", home / "b", "--json") == 0
    reports = json.loads(capsys.readouterr().out)["folders"]
    assert [one["base"] for one in reports[1]["modules"]] == [vars(v) for v in beside(home / "c", home / "b").values()]
    assert run(home / "a", home / "c", "--model", home / "b") == 0
    assert capsys.readouterr().out.count("|X|/|W0|: of Frobenius norms") == 2


def test_an_adapter_that_the_base_fits_nowhere_is_said_beside_one_that_it_fits(home, capsys):
    folder(home / "c", {"layers.0.q": pair(7, 7, 2)})
    for places in (("a", "c"), ("c", "a")):
        assert run(*(home / place for place in places), "--model", home / "b") == 0
        out = " ".join(capsys.readouterr().out.split())
        assert "no base weight, the base's weight is (12, 10), the update (7, 7) (1): layers.0.q" in out
        assert out.count("float32") == 2


def test_a_base_that_lacks_some_modules_measures_the_others(home, capsys):
    tensors = load_file(home / "b" / "model.safetensors")
    del tensors["layers.1.q.weight"]
    save_file(tensors, home / "b" / "model.safetensors")
    assert run(home / "a", "--model", home / "b") == 0
    assert "no base weight, the base has no weight of this name (1): layers.1.q" in capsys.readouterr().out


def broken(path, kind):
    weights_file = path / "model.safetensors"
    if kind == "gone":
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()
        return "There is no folder"
    if kind == "none":
        weights_file.unlink()
        return "has no model.safetensors"
    if kind == "pickled":
        weights_file.rename(path / "pytorch_model.bin")
        return "pickle files"
    if kind == "cut":
        weights_file.write_bytes(weights_file.read_bytes()[:-9])
        return "is not a whole safetensors file"
    if kind == "another model":
        weights(path, {"other.weight": normal(3, 3)})
        return "The base model fits no module of the adapter (layers.0.q: the base has no weight of this name)"
    if kind == "another shape":
        weights(path, {"layers.0.q.weight": normal(3, 3)})
        return "fits no module of the adapter (layers.0.q: the base's weight is (3, 3), the update (12, 10))"
    if kind == "quantised":
        save_file({"layers.0.q.weight": torch.ones(12, 10, dtype=torch.uint8)}, weights_file)
        return "is quantised, stored as U8"
    index = path / "model.safetensors.index.json"
    weights_file.unlink()
    if kind == "index with a missing part":
        index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
        return "has no model-1.safetensors, which its index names"
    index.write_text(json.dumps({"weight_map": {"a": "../a/adapter_model.safetensors"}}))
    return "does not say which file of its folder"


@pytest.mark.parametrize(
    "kind",
    [
        "gone",
        "none",
        "pickled",
        "cut",
        "another model",
        "another shape",
        "quantised",
        "index with a missing part",
        "index with a path",
    ],
)
def test_a_base_that_cannot_be_read_gets_one_sentence(home, capsys, kind):
    sentence = broken(home / "b", kind)
    before = files(home)
    assert run(home / "a", "--model", home / "b", "--plot", home / "x.svg") == 1
    out, err = capsys.readouterr()
    assert not out and sentence in err and err.count("\n") == 1 and err.endswith(".\n") and files(home) == before


@pytest.mark.parametrize("names, left", [(["1.q"], [1]), (["q"], [0, 1]), (["layers.0*", "k"], [0]), (["*0.q"], [0])])
def test_modules_are_chosen_by_the_ends_of_their_names_or_by_patterns(home, capsys, names, left):
    assert run(home / "a", "--model", home / "b", "--json", "--modules", *names) == 0
    rows = json.loads(capsys.readouterr().out)["modules"]
    assert len(rows) == 2 and [one["name"] for one in rows if one["base"]] == [f"layers.{k}.q" for k in left]


def test_no_module_of_that_name_is_one_sentence_and_without_a_base_there_is_nothing_to_choose(home, capsys):
    assert run(home / "a", "--model", home / "b", "--modules", "layers", "w") == 1
    assert "No module has a name that fits layers or w." in capsys.readouterr().err
    assert run(home / "a", "--modules", "q") == 2


def test_a_threshold_that_is_no_cosine_is_refused(home):
    for threshold in (0.0, -1.0, 1.1):
        with pytest.raises(ValueError, match="threshold"):
            beside(home / "a", home / "b", threshold=threshold)
    with pytest.raises(AdapterError, match="There is no folder"):
        BaseWeights(home / "nowhere")


def vit():
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    config = transformers.ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=2)
    return transformers.ViTForImageClassification(config), ["q_proj", "o_proj", "fc1", "fc2"]


def mixtral():
    sizes = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, intermediate_size=16)
    config = transformers.MixtralConfig(**sizes, vocab_size=16, num_local_experts=2)
    return transformers.MixtralForCausalLM(config), ["q_proj", "gate"]


@pytest.mark.parametrize("made", [vit, mixtral])
def test_weights_that_transformers_renames_on_loading_are_found(tmp_path, made):
    """transformers 5 calls them otherwise than the files that it writes."""
    model, names = made()
    model.save_pretrained(tmp_path / "base")
    own = {name: one.weight for name, one in model.named_modules() if name.rpartition(".")[2] in names}
    adapted = moved(model, target_modules=names, task_type=None)
    adapted.save_pretrained(tmp_path / "a")
    adapter, measured = inspect_folder(tmp_path / "a")
    (found,) = against_base([adapter], tmp_path / "base")
    plain = {one.name: one.name.removesuffix(".weight") for one in measured}  # a router is a parameter for PEFT
    assert {plain[name] for name in found} == set(own) and len(own) >= 4
    for one in measured:
        # the stored numbers, in float64
        norm = float(own[plain[one.name]].detach().double().norm())
        assert found[one.name].ratio == pytest.approx(one.norm / norm, rel=1e-6)
    # another kind of model has no such names
    config = tmp_path / "base/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "bert", "architectures": []}))
    assert not set(BaseWeights(tmp_path / "base").new_names)
