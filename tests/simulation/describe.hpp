// A message in one line, for traces.
#pragma once

#include <string>

#include "protocol/message.hpp"

namespace weightcast::simulation {

std::string describe(const protocol::Message& message);

}  // namespace weightcast::simulation
