"""The questions of this directory on DuckDB and on Spark. Each engine gets its files from the manifests."""

import json
import pathlib

HERE = pathlib.Path(__file__).parent
QUESTIONS = ["cost", "projects", "sessions", "copies", "tools"]
TABLES = ["turns", "tool_calls"]


def question(name):
    return (HERE / "questions" / f"{name}.sql").read_text()


def statements(path):
    """The statements of a file of SQL. No statement of these files has a semicolon inside."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("--")]
    return [text for text in "\n".join(lines).split(";") if text.strip()]


def files_of(root, table):
    """The files that the manifests name, and never what a listing finds."""
    manifests = sorted((pathlib.Path(root) / "v1" / "_manifests").glob("*.json"))
    found = [file for path in manifests for file in json.loads(path.read_text())["files"]]
    return [f"{root}/{file['path']}" for file in found if file["table"] == table]


class DuckDb:
    """DuckDB inside this process."""

    name = "DuckDB"

    def __init__(self, root, prices):
        import duckdb

        self.connection = duckdb.connect()
        self.connection.execute(f"SET VARIABLE root = '{root}'; SET VARIABLE prices = '{prices}';")
        self.connection.execute((HERE / "duckdb.sql").read_text())
        self.connection.execute((HERE / "views.sql").read_text())

    def ask(self, name):
        return self.connection.execute(question(name)).fetchall()

    def close(self):
        self.connection.close()


def spark_session(master):
    """A session on a cluster whose workers are two processes of one core each."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(master).appName("fleet").config("spark.ui.enabled", "false").config("spark.ui.showConsoleProgress", "false")
    for key, value in {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "4",
        "spark.executor.memory": "1g",
        # `dt` is a text, because rows without a time have the day `unknown`.
        "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
        "spark.sql.parquet.mergeSchema": "true",
    }.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


class Spark:
    """Spark, on a standalone cluster."""

    name = "Spark"

    def __init__(self, root, prices, session):
        self.session = session
        for table in TABLES:
            reader = session.read.option("basePath", f"{root}/v1/{table}")
            reader.parquet(*files_of(root, table)).createOrReplaceTempView(table)
        decimals = ["input", "cache_read", "write_5m", "write_1h", "output", "reasoning"]
        schema = "model STRING, day STRING, above BIGINT, up_to BIGINT, "
        schema += ", ".join(f"{name} DECIMAL(12, 6)" for name in decimals)
        session.read.csv(str(prices), header=True, schema=schema).createOrReplaceTempView("prices")
        for statement in statements(HERE / "views.sql"):
            session.sql(statement)

    def ask(self, name):
        return [tuple(row) for row in self.session.sql(question(name)).collect()]

    def close(self):
        pass
