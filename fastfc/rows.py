"""A table as a list of dicts."""

__all__ = ["Rows"]


class Rows:
    """``table["name"]`` is the column of that name, ``table[-1]`` the last row as a dict, ``len(table)`` how many."""

    def __init__(self, rows=()):
        self.rows = list(rows)

    def __getitem__(self, key):
        return [row[key] for row in self.rows] if isinstance(key, str) else self.rows[key]

    def __len__(self):
        return len(self.rows)

    def __iter__(self):
        return iter(self.rows)
