"""Writes the prices of a fleet's models as a table for SQL: one row for each model, day and size of request.

A price depends on the day, because prices change, and on the input of a request, because some models cost more for large
ones. `burn prices` says each price, also where a home has a `prices.json` of its own.
"""

import csv
import json
import subprocess

CLASSES = ["input", "cacheRead", "cacheWrite5m", "cacheWrite1h", "output", "reasoning"]
HEADER = ["model", "day", "above", "up_to", "input", "cache_read", "write_5m", "write_1h", "output", "reasoning"]


def write_prices(burn, home, models_and_days, path):
    """`models_and_days` are pairs. A model or a class without a price has empty cells, which are null in SQL."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        for model, day in sorted(models_and_days):
            command = [burn, "prices", model, "--home", home, "--at", day, "--json"]
            asked = subprocess.run(command, capture_output=True, text=True)
            found = json.loads(asked.stdout)["models"][0] if asked.returncode == 0 else {"prices": {}, "larger": []}
            sizes = [(-1, found["prices"])] + [(size["above"], size["prices"]) for size in found["larger"]]
            ends = [above for above, _ in sizes[1:]] + [2**62]
            for (above, prices), up_to in zip(sizes, ends):
                writer.writerow([model, day, above, up_to, *(prices.get(name) or "" for name in CLASSES)])
