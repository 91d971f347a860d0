"""Names of environments: gymnasium's ids, and shorter ones for MiniGrid's own."""

import difflib
import importlib
import re

import gymnasium
import minigrid  # registers its environments  # noqa: F401

FAMILY = re.compile(r"(MiniGrid|BabyAI)-.*-v\d+$")


def registered_names() -> list[str]:
    """Every MiniGrid id that gymnasium knows, shortened where that is unambiguous, sorted.

    Prefix and version are left off; of several versions the newest has the short name. BabyAI's levels,
    which MiniGrid brings along, keep their prefix.
    """
    return sorted(_short_names().values())


def short_name(env_id: str) -> str:
    """What results are named by: the shortest accepted name, its slashes (levels of a result) replaced."""
    known = _short_names().get(env_id) or re.sub(r"-v\d+$", "", env_id)
    return known.replace("/", "-")


def resolve_id(name: str) -> str:
    """The gymnasium id of a short name ('Empty-8x8') or of any registered id ('MiniGrid-Empty-8x8-v0').

    As in gymnasium, 'module:id' imports the module first, which registers its environments.

    Raises:
        ValueError: no such environment; the message has the closest names.
    """
    if not isinstance(name, str):
        raise ValueError(f"environment = {name!r}: allowed: a name, an environment, or what makes one")
    module, _, env_id = name.rpartition(":")
    trouble = ""
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            trouble = f" ({error})"
    aliases = _aliases()
    found = aliases.get(env_id, env_id if env_id in gymnasium.registry else None)
    if trouble or found is None:
        names = registered_names()
        raise ValueError(
            f"no MiniGrid environment {name!r}{trouble}; close or known: {', '.join(_closest(env_id))};"
            f" allowed: any of the {len(names)} names that common.minigrid.table.registered_names() lists,"
            " or the full id of one that you registered"
        )
    return found


def _closest(name: str) -> list[str]:
    """Names that are alike, whatever their case, their prefix and their version."""

    def plain(text: str) -> str:
        return re.sub(r"^minigrid-|-v\d+$", "", text.lower().replace("_", "-"))

    known = {plain(short): short for short in [*registered_names()][::-1]}
    close = difflib.get_close_matches(plain(name), known, n=3)
    return [known[match] for match in close] or ["Empty-8x8", "FourRooms", "DoorKey-8x8"]


def _short_names() -> dict[str, str]:
    """The shortest accepted name of every id."""
    shortest: dict[str, str] = {}
    for alias, env_id in sorted(_aliases().items(), key=lambda item: len(item[0])):
        shortest.setdefault(env_id, alias)
    return shortest


def _aliases() -> dict[str, str]:
    """Every accepted name of every registered id, newest version last, so that it has the short name."""

    def version(env_id: str) -> int:
        return int(re.search(r"-v(\d+)$", env_id)[1])

    known = [env_id for env_id in gymnasium.registry if FAMILY.match(env_id)]
    aliases = {}
    for env_id in sorted(known, key=version):
        for alias in (env_id, env_id.removeprefix("MiniGrid-")):
            aliases[alias] = env_id
            aliases[alias.rpartition("-v")[0]] = env_id
    return aliases
