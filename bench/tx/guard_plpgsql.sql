\set id random(1, 100000)
UPDATE guard_plpgsql SET state = CASE state WHEN 'a' THEN 'b' ELSE 'a' END WHERE id = :id;
