"""The roles of hard negatives, as the annotations of scenes name them."""

from data_modules.reading.annotations import AnnotationFile


def read_roles(file: AnnotationFile) -> dict[int, dict[str, str]]:
    """Return, by record id, the role of every image of the record's set: ``swapped``, ``wrong object`` and others.

    Records without ``roles`` are left out.

    Raises:
        ValueError: if a role is not a string.
    """
    roles = {}
    for position, identity in enumerate(file.ids):
        named = file.get_optional(position, "roles", dict)
        if named:
            for name in named:
                if not isinstance(named[name], str):
                    file.fail(position, "roles", f"must hold strings, got {named[name]!r} for {name}")
            roles[identity] = named
    return roles
