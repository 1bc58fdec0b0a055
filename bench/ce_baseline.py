"""checkpoint-engine on one GPU, as a baseline: one ParameterServer rank with a trainer's weights on the device, one
receiver process on the same device. Prints one JSON line with the times of each round; status 3 and a reason where
checkpoint_engine cannot be imported.

  ce_baseline.py [--bytes N] [--rounds N]

Two ways of taking the weights to the host: `plain`, as a user would write it (.cpu()), and `pinned`, the best that one
can do by hand: into pinned tensors that are kept.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import socket
import sys
import time


def shapes(bytes_):
    """Qwen3-8B, or smaller in all directions."""
    factor = min(1.0, (bytes_ / 16.38e9) ** (1 / 3)) if bytes_ else 1.0
    layers, hidden = max(1, int(36 * factor)), 64 * max(1, round(64 * factor))
    inner, kv, vocabulary = 3 * hidden, hidden // 4, 64 * max(1, round(2374 * factor))
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        layer = f"model.layers.{i}."
        yield layer + "self_attn.q_proj.weight", (hidden, hidden)
        yield layer + "self_attn.k_proj.weight", (kv, hidden)
        yield layer + "self_attn.v_proj.weight", (kv, hidden)
        yield layer + "self_attn.o_proj.weight", (hidden, hidden)
        yield layer + "self_attn.q_norm.weight", (128,)
        yield layer + "self_attn.k_norm.weight", (128,)
        yield layer + "mlp.gate_proj.weight", (inner, hidden)
        yield layer + "mlp.up_proj.weight", (inner, hidden)
        yield layer + "mlp.down_proj.weight", (hidden, inner)
        yield layer + "input_layernorm.weight", (hidden,)
        yield layer + "post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def receive(bytes_, asked, answers):
    import torch
    import zmq
    from checkpoint_engine.worker import update_weights_from_ipc

    torch.cuda.set_device(0)
    weights = {name: torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for name, shape in shapes(bytes_)}
    context = zmq.Context()
    answers.put("ready")

    def take(named):
        for name, weight in named:
            weights[name].copy_(weight)

    while (paths := asked.get()) is not None:
        update_weights_from_ipc(context, paths[0][1], 0, run=take)
        torch.cuda.synchronize()
        answers.put(float(weights["lm_head.weight"].flatten()[0]))


def measure(options):
    import torch
    from checkpoint_engine.ps import ParameterServer

    torch.cuda.set_device(0)
    # One rank, as torchrun would start it. The server takes the port after MASTER_PORT.
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1] - 1
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    spawn = multiprocessing.get_context("spawn")
    asked, answers = spawn.Queue(), spawn.Queue()
    receiver = spawn.Process(target=receive, args=(options.bytes, asked, answers), daemon=True)
    receiver.start()
    answers.get(timeout=120)

    weights = {name: torch.full(shape, 0.5, dtype=torch.bfloat16, device="cuda") for name, shape in shapes(options.bytes)}
    pinned = {name: torch.empty(weight.shape, dtype=weight.dtype, pin_memory=True) for name, weight in weights.items()}
    server = ParameterServer(auto_pg=True)
    rounds = []
    ways = ["plain"] + ["pinned"] * options.rounds
    for number, way in enumerate(ways, start=1):
        for weight in weights.values():
            weight.fill_(number)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        if way == "plain":
            host = {name: weight.cpu() for name, weight in weights.items()}
        else:
            host = pinned
            for name, weight in weights.items():
                pinned[name].copy_(weight, non_blocking=True)
            torch.cuda.synchronize()
        copied = time.perf_counter()
        server.register_checkpoint("policy", named_tensors=host, use_shared_memory_pool=True)
        registered = time.perf_counter()
        server.gather_metas("policy")
        gathered = time.perf_counter()
        server.update("policy", asked.put)
        updated = time.perf_counter()
        got = answers.get(timeout=120)
        if got != float(torch.tensor(number, dtype=torch.bfloat16)):
            raise RuntimeError(f"round {number}: the receiver has {got}")
        rounds.append(
            {
                "way": way,
                "d2h_s": copied - begin,
                "register_s": registered - copied,
                "gather_s": gathered - registered,
                "update_s": updated - gathered,
                "total_s": updated - begin,
            }
        )
        print(json.dumps(rounds[-1]), file=sys.stderr, flush=True)
        server.unregister_checkpoint("policy")
    asked.put(None)
    receiver.join(20)
    return {
        "kind": "checkpoint-engine",
        "version": importlib.metadata.version("checkpoint-engine"),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0),
        "bytes": sum(weight.numel() * 2 for weight in weights.values()),
        "tensors": len(weights),
        "rounds": rounds,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--bytes", type=int, default=0, help="of the policy; 0: Qwen3-8B's")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        import checkpoint_engine.ps  # noqa: F401
        import torch
    except ImportError as error:
        print(json.dumps({"kind": "not there", "why": f"checkpoint_engine cannot be imported: {error}"}), flush=True)
        return 3
    if not torch.cuda.is_available():
        print(json.dumps({"kind": "not there", "why": "torch sees no GPU"}), flush=True)
        return 3
    print(json.dumps(measure(options)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
