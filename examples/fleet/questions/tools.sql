-- Which tools were called how often, and how often did they fail? Calls belong to the copy of their turn that counts.
SELECT c.tool_name AS tool, count(*) AS calls, sum(CASE WHEN c.is_error THEN 1 ELSE 0 END) AS failed
FROM tool_calls AS c
JOIN distinct_turns AS t
    ON t.home_id = c.home_id AND t.generation = c.generation AND t.source = c.source
    AND t.session_id = c.session_id AND t.message_id = c.message_id
GROUP BY c.tool_name
ORDER BY calls DESC, tool
