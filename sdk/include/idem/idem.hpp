// All of the SDK but libpqxx support, which is in <idem/pqxx.hpp>.
#pragma once

#include <idem/claim.hpp>
#include <idem/client.hpp>
#include <idem/compensate.hpp>
#include <idem/consume.hpp>
#include <idem/consumer.hpp>
#include <idem/errors.hpp>
#include <idem/execute.hpp>
#include <idem/lease.hpp>
#include <idem/message.hpp>
#include <idem/nack.hpp>
#include <idem/publish.hpp>
#include <idem/result.hpp>
#include <idem/run.hpp>
#include <idem/transaction.hpp>
#include <idem/transition.hpp>
#include <idem/version.hpp>
