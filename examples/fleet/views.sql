-- What the questions have in common, in the SQL of both engines.

-- One row for each turn, whatever the number of machines that have it: one with a stamp first, then the larger output.
CREATE OR REPLACE TEMP VIEW distinct_turns AS
SELECT * FROM (
    SELECT *, row_number() OVER (
        PARTITION BY source, session_id, message_id
        ORDER BY
            CASE WHEN coalesce(workflow_id, agent_id, persona, tier) IS NULL THEN 1 ELSE 0 END,
            output_tokens DESC, home_id, generation
    ) AS copy_number
    FROM turns
) AS numbered
WHERE copy_number = 1;

-- Tokens as `burn usage` counts them: in some sources the output includes reasoning, in the others it does not.
CREATE OR REPLACE TEMP VIEW counted_turns AS
SELECT
    *,
    CASE WHEN source IN ('claude-code', 'anthropic-api', 'codex', 'openai-api')
        THEN output_tokens ELSE output_tokens + reasoning_tokens END AS all_output,
    input_tokens + cache_read_tokens + cache_create_5m_tokens + cache_create_1h_tokens AS all_input
FROM distinct_turns;

-- Millionths of a dollar, exactly; null for a model without a price. A turn of Codex is several requests, so its size is unknown and the lowest tier applies.
CREATE OR REPLACE TEMP VIEW priced_turns AS
SELECT
    t.*,
    CAST(t.input_tokens AS DECIMAL(15, 0)) * p.input
        + CAST(t.cache_read_tokens AS DECIMAL(15, 0)) * p.cache_read
        + CAST(t.cache_create_5m_tokens AS DECIMAL(15, 0)) * p.write_5m
        + CAST(t.cache_create_1h_tokens AS DECIMAL(15, 0)) * p.write_1h
        + CAST(t.all_output - t.reasoning_tokens AS DECIMAL(15, 0)) * p.output
        + CAST(t.reasoning_tokens AS DECIMAL(15, 0)) * p.reasoning AS micro_usd
FROM counted_turns AS t
LEFT JOIN prices AS p
    ON p.model = t.model AND p.day = t.dt
    AND CASE WHEN t.source = 'codex' THEN 0 ELSE t.all_input END > p.above
    AND CASE WHEN t.source = 'codex' THEN 0 ELSE t.all_input END <= p.up_to;
