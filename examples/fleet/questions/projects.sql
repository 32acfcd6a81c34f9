-- Which projects used how much? The names are there when homes export `--with project`, or hashes with `--hash-key`.
SELECT coalesce(project_key, project) AS project, count(*) AS turns, sum(all_input + all_output) AS tokens,
    sum(micro_usd) AS micro_usd
FROM priced_turns
GROUP BY coalesce(project_key, project)
ORDER BY micro_usd DESC, project
