-- Which sessions were there, how long, and what did they cost? A session may be on several machines.
SELECT source, session_id, min(ts_us) AS started_at, max(ts_us) AS ended_at, count(*) AS turns,
    sum(all_input + all_output) AS tokens, sum(micro_usd) AS micro_usd
FROM priced_turns
GROUP BY source, session_id
ORDER BY micro_usd DESC, source, session_id
