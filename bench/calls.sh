# What is done in one call, and what a state column costs: sourced by bench/run.
# shellcheck shell=bash disable=SC2154,SC2034,SC2030,SC2031 # variables of bench/run, some of them changed for one server

# A state column, by one row a transaction; and by all rows in one statement, which is what the guards themselves cost.
guard() {
    local db
    database machines guard
    alternate script guard "$requests" guard_plain guard_idem guard_plpgsql
    alternate update_all guard "$clients" guard_plain guard_idem guard_plpgsql
}
update_all() { # WORK CONTESTANT ROUND …
    local us
    sql -c "VACUUM $2" -c CHECKPOINT
    us=$(sql -A -c "SELECT update_all('$2')")
    sample "$1" "$2" "$3" us "$us"
    say "$(printf '%-10s  round %d of %d  %-14s %8.2f us a row' "$1" "$3" "$rounds" "$2" "$us")"
}

# One order a request: claim, function, completion as statements of a transaction; in one statement, beside the idiom as a
# function; and 500 at a time, beside 500 that nothing protects.
execute() {
    local db
    database calls execute
    alternate execute_script execute "$requests" execute_three execute_one execute_idiom execute_many claim_many insert_many
}
execute_script() { # WORK CONTESTANT ROUND REQUESTS
    if [[ $2 = *_many ]]; then
        measure "$@" many_of_500 "$2" $(($4 / 500))
    else
        script "$@"
    fi
}
many_of_500() { # CONTESTANT CALLS
    transactions "$1" "$2" | awk '/^tps = / { $3 *= 500 } { print }'
}
