#include "invariants.hpp"

#include "chaos.hpp"

#include <array>
#include <utility>

namespace fault {

namespace {

// Each query returns what breaks the rule, as one text a row.
constexpr std::array<std::pair<const char*, const char*>, 14> rules_here{{
    {"each consumer applies every order's message, once",
     R"(SELECT format('%s: order %s, account %s, n %s: %s times', consumer, id, account, n, times)
        FROM (SELECT c.consumer, o.id, o.account, o.n, count(a) AS times
              FROM (VALUES ('sales'), ('audit')) AS c (consumer) CROSS JOIN orders AS o
              LEFT JOIN applied AS a ON a.consumer = c.consumer AND a.order_id = o.id AND a.account = o.account AND a.n = o.n
              GROUP BY 1, 2, 3, 4) AS x
        WHERE times <> 1)"},
    {"and no message that no order has published",
     R"(SELECT format('%s: order %s, account %s, n %s', a.consumer, a.order_id, a.account, a.n) FROM applied AS a
        WHERE NOT EXISTS (SELECT FROM orders AS o WHERE o.id = a.order_id AND o.account = a.account AND o.n = a.n))"},
    {"messages of a key are applied in the order of its lock",
     R"(SELECT format('%s: account %s, n %s after %s', consumer, account, n, before)
        FROM (SELECT consumer, account, n, lag(n, 1, 0::bigint) OVER (PARTITION BY consumer, account ORDER BY at) AS before FROM applied) AS a
        WHERE n <> before + 1)"},
    {"nothing is left in line, parked or dead",
     R"(SELECT format('%s, lane %s: %s in line, %s parked, %s dead', consumer, lane, depth, parked, dead)
        FROM idem_consumers WHERE depth + parked + dead <> 0)"},
    {"a step under a lease is done once",
     "SELECT format('%s: tokens %s', key, array_agg(token)) FROM steps GROUP BY key HAVING count(*) > 1"},
    {"captured money is that of live orders, and given back once",
     R"(SELECT format('%s: %s over %s, captured %s in %s entries', s.id, s.state, s.amount, sum(c.amount), count(c))
        FROM sagas AS s LEFT JOIN captures AS c ON c.saga = s.id GROUP BY s.id, s.state, s.amount
        HAVING sum(c.amount) IS DISTINCT FROM CASE WHEN s.state = 'cancelled' THEN 0 ELSE s.amount END
            OR count(c) <> CASE WHEN s.state = 'cancelled' THEN 2 ELSE 1 END
        UNION ALL SELECT format('%s: captured, but no order', saga) FROM captures WHERE saga NOT IN (SELECT id FROM sagas))"},
    {"who was told that his order is placed has it",
     R"(SELECT DISTINCT format('%s: %s', t.saga, t.answer) FROM told AS t
        WHERE call = 'place' AND answer IN ('executed', 'replayed') AND t.saga NOT IN (SELECT id FROM sagas)
        UNION ALL SELECT format('%s: executed %s times', saga, count(*)) FROM told WHERE call = 'place' AND answer = 'executed' GROUP BY saga HAVING count(*) > 1
        UNION ALL SELECT format('%s: %s', saga, array_agg(DISTINCT response)) FROM told WHERE call = 'place' AND answer IN ('executed', 'replayed')
                  GROUP BY saga HAVING count(DISTINCT response) > 1)"},
    {"an order is cancelled or goes on, never both",
     R"(SELECT DISTINCT format('%s: %s, though told %s to %s', s.id, s.state, t.answer, t.call) FROM told AS t JOIN sagas AS s ON s.id = t.saga
        WHERE (t.call = 'cancel' AND t.answer IN ('compensated', 'already') AND s.state <> 'cancelled')
           OR (t.call = 'cancel' AND t.answer = 'refused' AND s.state = 'cancelled')
           OR (t.call = 'cancel' AND t.answer = 'tombstoned')
           OR (t.call = 'place' AND t.answer = 'cancelled' AND s.state <> 'cancelled')
           OR (t.call IN ('confirm', 'pay', 'finish') AND t.answer = 'done' AND s.state = 'cancelled')
           OR (t.call = 'finish' AND t.answer = 'done' AND s.state <> 'completed')
           OR (t.call = 'confirm' AND t.answer = 'ID014' AND s.state <> 'cancelled')
           OR (t.call = 'pay' AND t.answer = 'ID012' AND s.state NOT IN ('cancelled', 'completed')))"},
    {"a cancellation happens once, and says the same every time",
     R"(SELECT format('%s: %s', saga, array_agg(DISTINCT response)) FROM told
        WHERE call = 'cancel' AND answer IN ('compensated', 'already', 'tombstoned') GROUP BY saga
        HAVING count(DISTINCT response) > 1 OR count(*) FILTER (WHERE answer = 'compensated') > 1
        UNION ALL SELECT DISTINCT format('%s: compensated, but there is none', saga) FROM told
                  WHERE call = 'cancel' AND answer = 'compensated' AND saga NOT IN (SELECT id FROM sagas))"},
    {"each saga's messages are a path in its machine, to where it is",
     R"(SELECT format('%s: %s, told %s', s.id, s.state, h.path) FROM sagas AS s
        LEFT JOIN (SELECT saga, string_agg(state, ' ' ORDER BY at) AS path FROM history GROUP BY 1) AS h ON h.saga = s.id
        WHERE h.path IS DISTINCT FROM CASE s.state WHEN 'created' THEN 'created' WHEN 'paid' THEN 'created paid'
                                      WHEN 'completed' THEN 'created paid completed' WHEN 'cancelled' THEN 'created cancelled' END
        UNION ALL SELECT DISTINCT format('%s: told, but there is none', saga) FROM history WHERE saga NOT IN (SELECT id FROM sagas))"},
    {"no step that the machine does not have is accepted",
     R"(SELECT format('%s: %s', saga, call) FROM told WHERE call IN ('backward', 'abridged') AND answer = 'done'
        UNION ALL SELECT format('%s: %s', id, state) FROM sagas WHERE id LIKE 'not-%')"},
    {"no money is held past its deadline", "SELECT format('%s: %s', key, state) FROM idem_compensations WHERE state IN "
                                           "('overdue', 'leased') OR state = 'held' AND deadline IS NOT NULL"},
    {"what callers of sagas were told is explained by the faults",
     R"(SELECT format('%s: %s: %s %s', saga, call, answer, left(response, 200)) FROM told
        WHERE answer !~ '^(08...|57P0.|53100|25P03|40001|40P01|55P03)$'
          AND answer <> ALL (CASE call WHEN 'place' THEN '{executed,replayed,in_progress,cancelled}'
                             WHEN 'cancel' THEN '{compensated,already,tombstoned,refused,in_progress}'
                             WHEN 'confirm' THEN '{done,ID013,ID014}' WHEN 'abridged' THEN '{ID012}'
                             WHEN 'backward' THEN '{absent,ID012}' ELSE '{done,absent,ID012}' END::text[]))"},
    {"no request came under two keys", "SELECT array_to_string(keys, ' ') FROM idem_suspects('1 day')"},
}};

constexpr std::array<std::pair<const char*, const char*>, 4> rules_there{{
    {"the relay's numbers have no holes, and stand for one message each",
     R"(SELECT format('%s, lane %s: %s numbers up to %s of %s messages', source, lane, count(DISTINCT seq), max(seq), count(DISTINCT (seq, message_id)))
        FROM delivered WHERE answer <> 'gap' GROUP BY source, lane
        HAVING count(DISTINCT seq) <> max(seq) OR count(DISTINCT (seq, message_id)) <> max(seq)
        UNION ALL SELECT format('%s, lane %s: a gap before %s', source, lane, seq) FROM delivered WHERE answer = 'gap')"},
    {"its receiver applies each message once",
     "SELECT format('order %s: %s times', order_id, count(*)) FROM applied GROUP BY order_id HAVING count(*) > 1"},
    {"and those of a key in the order of its lock",
     R"(SELECT format('account %s, n %s after %s', account, n, before)
        FROM (SELECT account, n, lag(n, 1, 0::bigint) OVER (PARTITION BY account ORDER BY at) AS before FROM applied) AS a WHERE n <> before + 1)"},
    {"its self-check finds nothing", "SELECT invariant || ': ' || object || ', ' || detail FROM idem_verify()"},
}};

invariant look(insistent& db, const char* text, const char* sql) {
    invariant i{text};
    const auto found = db.exec(sql);
    for (int row = 0; row < found.rows(); ++row) i.broken.emplace_back(found.text(row, 0));
    return i;
}

} // namespace

std::vector<invariant> check_messages_and_sagas(insistent& here, insistent& there) {
    std::vector<invariant> all;
    for (const auto& [text, sql] : rules_here) all.push_back(look(here, text, sql));
    for (const auto& [text, sql] : rules_there)
        all.push_back(look(there, ("there: " + std::string{text}).c_str(), sql));
    // The same orders here and there, and nothing more.
    const auto sum = [](insistent& db, const std::string& of) {
        return db.value("SELECT format('%s messages, %s', count(*), coalesce(sum(hashint8(" + of +
                        ")::numeric * n + account), 0)) FROM " + (of == "id" ? "orders" : "applied"));
    };
    const auto published = sum(here, "id"), delivered = sum(there, "order_id");
    all.push_back({"there: what was published was delivered, and nothing else",
                   published == delivered ? std::vector<std::string>{}
                                          : std::vector{"published " + published + ", delivered " + delivered}});
    return all;
}

} // namespace fault
