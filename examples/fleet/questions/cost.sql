-- What did each model cost on each day?
SELECT dt AS day, model, count(*) AS turns, sum(all_input + all_output) AS tokens, sum(micro_usd) AS micro_usd
FROM priced_turns
GROUP BY dt, model
ORDER BY day, model
