"""NIR's equations stepped forward in float64, node by node as they are written down, without
anything of snnsim.
"""

import numpy as np
import torch
from torch.nn import functional

MEMORY = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")


def stepped(graph, x_seq, *, dt=1e-4, subtract=False):
    """Outputs `[T, B, *out]` of a flat graph; a loop without Delay hands on what a neuron put out
    one step before.
    """
    state, outputs = {}, []
    before = {}
    for t, x in enumerate(x_seq.double().numpy()):
        now = {}
        for name, node in graph.nodes.items():
            if type(node).__name__ == "Input":
                now[name] = x
        end = next(name for name, node in graph.nodes.items() if type(node).__name__ == "Output")

        def value(name, t=t, now=now, before=before):
            if name in now:
                return now[name]
            node = graph.nodes[name]
            kind = type(node).__name__
            sources = [a for a, b in graph.edges if b == name]
            if kind == "Delay":
                steps = round(float(np.unique(node.delay)[0]) / dt)
                line = state.setdefault(name, [])
                if t - steps >= 0 and t - steps < len(line):
                    now[name] = line[t - steps]
                    return now[name]
                if steps:
                    return np.zeros((x_seq.shape[1], *node.delay.shape))
            if kind in MEMORY:
                # who asks while it is computed is in a loop with it
                silent = np.zeros((x_seq.shape[1], *node.r.shape))
                now[name] = before.get(name, silent)
            total = sum((value(a) for a in sources), 0.0)
            now[name] = result = behind(kind, node, total, state, name, dt, subtract)
            return result

        outputs.append(value(end))
        for name, node in graph.nodes.items():
            if type(node).__name__ == "Delay":
                (source,) = [a for a, b in graph.edges if b == name]
                state.setdefault(name, []).append(value(source))
        before = {
            name: result
            for name, result in now.items()
            if type(graph.nodes[name]).__name__ in MEMORY
        }
    return torch.from_numpy(np.stack(outputs))


def behind(kind, node, x, state, name, dt, subtract):
    if kind in ("Linear", "Affine"):
        return x @ np.float64(node.weight).T + np.float64(getattr(node, "bias", 0))
    if kind in ("Conv1d", "Conv2d"):
        convolve = functional.conv1d if kind == "Conv1d" else functional.conv2d
        weight, bias = (torch.from_numpy(np.float64(field)) for field in (node.weight, node.bias))
        geometry = {
            field: (
                given
                if isinstance(given := getattr(node, field), str)
                else tuple(np.atleast_1d(given).tolist())
            )
            for field in ("stride", "padding", "dilation")
        }
        return convolve(
            torch.from_numpy(x), weight, bias, groups=int(node.groups), **geometry
        ).numpy()
    if kind in ("SumPool2d", "AvgPool2d"):
        kernel, stride, padding = (
            tuple(int(s) for s in f) for f in (node.kernel_size, node.stride, node.padding)
        )
        mean = functional.avg_pool2d(torch.from_numpy(x), kernel, stride, padding).numpy()
        return mean * np.prod(kernel) if kind == "SumPool2d" else mean
    if kind == "Flatten":
        axes = x.ndim - 1
        return (
            torch.from_numpy(x).flatten(node.start_dim % axes + 1, node.end_dim % axes + 1).numpy()
        )
    if kind == "Scale":
        return x * node.scale
    if kind == "Threshold":
        return np.float64(x > node.threshold)
    if kind in MEMORY:
        return neuron(kind, node, x, state, name, dt, subtract)
    return x


def neuron(kind, node, x, state, name, dt, subtract):
    field = {
        key: np.float64(given) for key, given in vars(node).items() if isinstance(given, np.ndarray)
    }
    fires = kind in ("IF", "LIF", "CubaLIF")
    if name not in state:
        state[name] = (
            np.zeros_like(x),
            np.zeros_like(x) + (field["v_reset"] if fires and not subtract else 0),
        )
    i, v = state[name]
    if kind in ("I", "IF"):
        v = v + dt * field["r"] * x
    elif kind in ("LI", "LIF"):
        v = v + dt / field["tau"] * (field["v_leak"] - v + field["r"] * x)
    else:
        i = i + dt / field["tau_syn"] * (field["w_in"] * x - i)
        v = v + dt / field["tau_mem"] * (field["v_leak"] - v + field["r"] * i)
    spikes = np.float64(v > field["v_threshold"]) if fires else None
    if fires:
        v = np.where(spikes, v - field["v_threshold"] if subtract else field["v_reset"] + 0 * v, v)
    state[name] = (i, v)
    return spikes if fires else v
