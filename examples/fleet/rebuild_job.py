"""Rebuilds and exports ledgers as a Spark job: one task a ledger, which calls `burn`.

For those who ship ledgers instead of exports. A task that fails is run again by Spark. Nothing is doubled, because a task
uses the same home directory again: its `export.json` has the generation, and files have their content in their names. The home
directories must be where every worker can reach them.
"""

import pathlib
import shutil
import subprocess


def rebuild_and_export(burn, ledger, home, out, fails):
    """The work of one task. `fails` makes its first attempt fail after the export, when everything is written."""
    from pyspark import TaskContext

    home = pathlib.Path(home)
    home.mkdir(parents=True, exist_ok=True)
    part = home / "ledger.part"
    shutil.copyfile(ledger, part)
    part.rename(home / "ledger.jsonl")

    def run(*words):
        done = subprocess.run([burn, *words, "--home", str(home)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{words}: {done.stderr}")

    run("state", "rebuild", "archive", "--full")
    run("export", "parquet", "--out", str(out), "--with", "project")
    if fails and TaskContext.get().attemptNumber() == 0:
        raise RuntimeError("this attempt fails after its work is done")
    return str(ledger), TaskContext.get().attemptNumber()


def run_job(session, burn, ledgers, homes, out):
    """Returns each ledger with the number of the attempt that succeeded. The first ledger's first attempt fails."""
    work = [(str(ledger), str(pathlib.Path(homes) / str(number)), number == 0) for number, ledger in enumerate(ledgers)]
    burn, out = str(burn), str(out)
    session.sparkContext.addPyFile(__file__)
    tasks = session.sparkContext.parallelize(work, len(work))
    return tasks.map(lambda task: rebuild_and_export(burn, task[0], task[1], out, task[2])).collect()
