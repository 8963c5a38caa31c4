// The rest of a stream as text. Stateless.
#pragma once

#include <istream>
#include <string>

namespace tenax {

/// Everything left in `in`. A read error (a folder, a file of /proc whose process went away) ends
/// it with in.bad(); std::istreambuf_iterator would throw.
std::string read_all(std::istream& in);

}  // namespace tenax
