"""Random changes to files: to their bytes, and to what JSON says."""

import copy
import json

HOSTILE = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**30, 10**400, -(10**400), 0.5, -0.0, 1e-320, 1e308, float("inf"),
    float("-inf"), float("nan"), "", "x", "\x1b[2J\r\nforged", "\ud800", "\x00", "../../etc", "x" * 5000, "1", "nan",
    [], {}, [[]], [{}], [1, "a", None], {"": 0}, {"a": {"b": [1]}}, [0] * 1000,
]  # fmt: skip


def mutate_value(rng, value):
    """A JSON value with one to three changes anywhere in it."""
    value = copy.deepcopy(value)
    for _ in range(rng.randrange(1, 4)):
        value = _mutate_once(rng, value)
    return value


def _mutate_once(rng, value):
    places = list(_places(value))
    if not places or rng.random() < 0.05:
        return _hostile(rng)
    holder, key = rng.choice(places)
    match rng.randrange(7):
        case 0:
            del holder[key]
        case 1:
            holder[key] = [holder[key]]
        case 2:
            for _ in range(rng.choice([5, 90, 600, 3000])):
                holder[key] = rng.choice([[holder[key]], {"a": holder[key]}])
        case 3 if isinstance(holder, dict):
            holder[rng.choice(["x", "\x1b[2J", "", "step", "\ud800"])] = holder.pop(key)
        case 4:
            other, place = rng.choice(places)
            found = other[place]
            holder[key] = None if isinstance(found, dict | list) else found  # which may hold the holder itself
        case _:
            holder[key] = _hostile(rng)
    return value


def _hostile(rng):
    return copy.deepcopy(rng.choice(HOSTILE))


def _places(value, depth=0):
    if depth > 50:
        return
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key], depth + 1)


def dump(value):
    """JSON of a value that is nested however deep, as bytes."""
    parts, stack = [], [value]
    while stack:
        top = stack.pop()
        if isinstance(top, _Text):
            parts.append(top.text)
        elif isinstance(top, dict):
            stack.append(_Text("}"))
            for number, (key, inner) in reversed(list(enumerate(top.items()))):
                stack += [inner, _Text((", " if number else "") + json.dumps(str(key)) + ": ")]
            stack.append(_Text("{"))
        elif isinstance(top, list):
            stack.append(_Text("]"))
            for number, inner in reversed(list(enumerate(top))):
                stack += [inner, _Text(", " if number else "")]
            stack.append(_Text("["))
        else:
            parts.append(json.dumps(top))
    return "".join(parts).encode()


class _Text:
    def __init__(self, text):
        self.text = text


def mutate_bytes(rng, content):
    """Bytes with one to four changes anywhere in them."""
    content = bytearray(content)
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(content) + 1)
        match rng.randrange(8):
            case 0:
                del content[place:]
            case 1:
                del content[place : place + rng.randrange(1, 40)]
            case 2:
                content[place:place] = rng.randbytes(rng.randrange(1, 20))
            case 3:
                content[place:place] = rng.choice(
                    [b"\xef\xbb\xbf", b"\0" * 9, b"\xff\xfe", b"[" * 5000, b"9" * 5000, b"\n"]
                )
            case 4:
                content[place:place] = content[: rng.randrange(1, 200)]
            case _ if place < len(content):
                content[place] ^= 1 << rng.randrange(8)
    return bytes(content)
