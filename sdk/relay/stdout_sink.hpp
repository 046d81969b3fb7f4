// stdout://: a JSON object a line.
#pragma once

#include "sink.hpp"

namespace idem::relay {

sinks stdout_sinks();

} // namespace idem::relay
