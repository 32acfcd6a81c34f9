-- How many turns does each home have, and how many of them does another home have, too?
SELECT home_id, count(*) AS turns, sum(CASE WHEN homes > 1 THEN 1 ELSE 0 END) AS also_elsewhere
FROM (
    SELECT home_id, count(*) OVER (PARTITION BY source, session_id, message_id) AS homes
    FROM turns
) AS counted
GROUP BY home_id
ORDER BY home_id
