-- The exports of a fleet as views of DuckDB. Before it, set the root of the exports and the price table:
--   SET VARIABLE root = '/mnt/fleet/burn'; SET VARIABLE prices = 'prices.csv';
-- Files are taken from the manifests, because a listing also finds files that no manifest names.
CREATE OR REPLACE TEMP TABLE fleet_files AS
SELECT unnest(files, recursive := true), homeId AS home_id, generation
FROM read_json(getvariable('root') || '/v1/_manifests/*.json', columns = {
    homeId: 'VARCHAR', generation: 'VARCHAR',
    files: 'STRUCT(path VARCHAR, "table" VARCHAR, day VARCHAR, "rows" BIGINT, bytes BIGINT)[]'
});

SET VARIABLE turns_files = (
    SELECT list(getvariable('root') || '/' || path) FROM fleet_files WHERE "table" = 'turns');
SET VARIABLE tool_calls_files = (
    SELECT list(getvariable('root') || '/' || path) FROM fleet_files WHERE "table" = 'tool_calls');

-- `dt` is a text, because rows without a time have the day `unknown`. Homes may export different columns.
CREATE OR REPLACE TEMP VIEW turns AS
FROM read_parquet(getvariable('turns_files'), union_by_name = true,
                  hive_partitioning = true, hive_types = {'dt': VARCHAR});

CREATE OR REPLACE TEMP VIEW tool_calls AS
FROM read_parquet(getvariable('tool_calls_files'), union_by_name = true,
                  hive_partitioning = true, hive_types = {'dt': VARCHAR});

CREATE OR REPLACE TEMP VIEW prices AS
FROM read_csv(getvariable('prices'), header = true, columns = {
    model: 'VARCHAR', day: 'VARCHAR', above: 'BIGINT', up_to: 'BIGINT', input: 'DECIMAL(12, 6)', cache_read: 'DECIMAL(12, 6)',
    write_5m: 'DECIMAL(12, 6)', write_1h: 'DECIMAL(12, 6)', output: 'DECIMAL(12, 6)', reasoning: 'DECIMAL(12, 6)'
});
