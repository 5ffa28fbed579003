-- What benchmarks/prepare.py measures `aigq prepare` against: the same tables (unit user_day), by hand.
CREATE TEMP TABLE forms AS
SELECT raw, nullif(lower(trim(regexp_replace(raw, '[\x00-\x20\x7f]+', ' ', 'g'))), '') AS query,
       regexp_matches(lower(raw), '[^\s@]+@[^\s@]+\.[^\s@]|\+[ ]?[0-9](?:[ ().\-/]{0,2}[0-9]){6,}|(?:^|[^0-9])[(]?[0-9]{3}[)]?[ .\-]{1,2}[0-9]{3}[ .\-][0-9]{4}(?:$|[^0-9])|(?:^|[^0-9])[0-9]{3}-[0-9]{4}(?:$|[^0-9])|[0-9](?:[ .\-/()]{0,2}[0-9]){8,}|[a-z][a-z0-9+.\-]*://[^\s/]*:[^\s/]*@|(?:https?://|www\.)[^\s]*[?&#;](?:[a-z0-9_\-]*(?:token|key|secret|password|passwd|pwd|auth|session|sid|sig|code))=') AS private
FROM (SELECT DISTINCT query AS raw FROM '$tables/events.parquet' WHERE query IS NOT NULL);

CREATE TEMP TABLE ev AS
WITH once AS (
  SELECT DISTINCT user_id, ts, action, query, item_id, request_id FROM '$tables/events.parquet'
  WHERE action IN ('search', 'click', 'cart', 'purchase')
), clean AS (
  SELECT o.user_id, o.ts, o.action, CASE WHEN NOT f.private THEN f.query END AS query, o.item_id,
         datediff('day', DATE '1970-01-01', o.ts::DATE)::INT AS day
  FROM once o LEFT JOIN forms f ON o.query = f.raw
), gaps AS (
  SELECT *, coalesce(lag(ts) OVER (PARTITION BY user_id ORDER BY ts) + INTERVAL 30 MINUTE < ts, false)::INT AS fresh FROM clean
)
SELECT * EXCLUDE (fresh), sum(fresh) OVER w AS session, sum((action = 'search')::INT) OVER w AS searches
FROM gaps WINDOW w AS (PARTITION BY user_id ORDER BY ts RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW);

CREATE TEMP TABLE led AS
WITH last AS (
  SELECT user_id, session, searches, min(query) AS query FROM ev
  WHERE action = 'search' AND query IS NOT NULL AND day < $validation_from GROUP BY ALL
)
SELECT e.user_id, e.item_id, coalesce(e.query, l.query) AS query
FROM ev e LEFT JOIN last l USING (user_id, session, searches)
WHERE e.action <> 'search' AND e.item_id IS NOT NULL AND e.day < $validation_from AND coalesce(e.query, l.query) IS NOT NULL;

CREATE TEMP TABLE leaves AS SELECT item_id, category[len(category)] AS leaf FROM '$tables/items.parquet';

CREATE TEMP TABLE cats AS
SELECT query, leaf AS category FROM (
  SELECT query, leaf, row_number() OVER (PARTITION BY query ORDER BY count(*) DESC, leaf) AS place
  FROM led JOIN leaves USING (item_id) GROUP BY query, leaf) WHERE place = 1;

CREATE TEMP TABLE texts AS
WITH common AS (SELECT query FROM led GROUP BY query HAVING count(DISTINCT user_id) >= 5),
asked AS (
  SELECT item_id, query FROM (
    SELECT item_id, query, row_number() OVER (PARTITION BY item_id ORDER BY count(*) DESC, query) AS place
    FROM led SEMI JOIN common USING (query) GROUP BY item_id, query) WHERE place = 1)
SELECT item_id, coalesce(a.query, lower(i.brand || ' ' || i.title)) AS text
FROM '$tables/items.parquet' i FULL JOIN asked a USING (item_id);

CREATE TEMP TABLE beh AS
WITH worded AS (
  SELECT e.*, CASE WHEN e.action = 'search' THEN e.query ELSE coalesce(t.text, e.query) END AS text,
         CASE e.action WHEN 'purchase' THEN 3 WHEN 'cart' THEN 2 WHEN 'click' THEN 1 ELSE 0 END AS strength
  FROM ev e LEFT JOIN texts t USING (item_id)
), merged AS (
  SELECT user_id, session, day, text, min(ts) AS ts, max(strength) AS strength,
         coalesce(min(query) FILTER (query = text), min(query)) AS query,
         coalesce(min(item_id) FILTER (strength = 3), min(item_id) FILTER (strength = 2), min(item_id) FILTER (strength = 1)) AS item_id
  FROM worded WHERE text IS NOT NULL GROUP BY ALL
)
SELECT m.user_id, m.ts, m.day, m.session::BIGINT AS session, ['search', 'click', 'cart', 'purchase'][strength + 1] AS action,
       m.text, m.query, m.item_id, coalesce(c.category, l.leaf) AS category
FROM merged m LEFT JOIN cats c ON m.text = c.query LEFT JOIN leaves l ON m.item_id = l.item_id;

COPY (FROM beh ORDER BY user_id, ts, session, text) TO '$out/behaviours.parquet' (COMPRESSION zstd);

COPY (
  SELECT query, category, issues, users, 'typed' AS provenance FROM (
    SELECT query, count(*) AS issues, count(DISTINCT user_id) AS users FROM ev
    WHERE action = 'search' AND query IS NOT NULL AND day < $validation_from GROUP BY query) LEFT JOIN cats USING (query)
  ORDER BY query
) TO '$out/queries.parquet' (COMPRESSION zstd);

COPY (
  SELECT query, day, sum(n) AS issues, sum((day = first)::INT) AS new_users FROM (
    SELECT query, user_id, day, count(*) AS n, min(day) OVER (PARTITION BY query, user_id) AS first FROM ev
    WHERE action = 'search' AND query IS NOT NULL GROUP BY query, user_id, day)
  GROUP BY query, day ORDER BY day, query
) TO '$out/query_days.parquet' (COMPRESSION zstd);

COPY (
  WITH wanted AS (
    SELECT user_id, day, query, min(ts) AS place FROM ev WHERE action = 'search' AND query IS NOT NULL GROUP BY ALL
  ), known AS (SELECT user_id, query, min(ts) AS since FROM beh WHERE query IS NOT NULL GROUP BY ALL
  ), lists AS (
    SELECT user_id, day, list(query ORDER BY place, query) AS targets,
           list(coalesce(since >= DATE '1970-01-01' + day, true) ORDER BY place, query) AS novel
    FROM wanted LEFT JOIN known USING (user_id, query) GROUP BY ALL
  ), counts AS (SELECT user_id, day, count(*) AS n FROM beh GROUP BY ALL
  ), before AS (
    SELECT user_id, day, coalesce(sum(n) OVER (PARTITION BY user_id ORDER BY day ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS n_before
    FROM counts
  ), firsts AS (
    SELECT user_id, coalesce(sum(n) OVER (ORDER BY user_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS first_row
    FROM (SELECT user_id, count(*) AS n FROM beh GROUP BY user_id)
  ), made AS (
    SELECT user_id, (DATE '1970-01-01' + day)::TIMESTAMP AS cut, day,
           CASE WHEN day < $validation_from THEN 'train' WHEN day < $test_from THEN 'valid' ELSE 'test' END AS split,
           first_row, n_before, targets, novel, NULL::VARCHAR[] AS shown
    FROM lists LEFT JOIN before USING (user_id, day) LEFT JOIN firsts USING (user_id)
  )
  SELECT row_number() OVER (ORDER BY day, user_id, cut) - 1 AS sample_id, * FROM made WHERE split = 'train' OR n_before >= 1
  ORDER BY sample_id
) TO '$out/samples.parquet' (COMPRESSION zstd);
