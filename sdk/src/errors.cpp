#include <idem/errors.hpp>

#include <algorithm>

namespace idem {

error::error(const std::string& what, std::string_view sqlstate) : std::runtime_error{what} {
    sqlstate_.fill('0');
    std::copy_n(sqlstate.begin(), std::min(sqlstate.size(), sqlstate_.size()), sqlstate_.begin());
}

} // namespace idem
