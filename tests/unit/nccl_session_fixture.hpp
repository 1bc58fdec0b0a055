// What a source offers and receivers ask for, in tests of sessions.
#pragma once

#include <gtest/gtest.h>

#include "transport/nccl/session_guest.hpp"
#include "transport/nccl/session_host.hpp"

namespace weightcast::transport {

inline SessionOffer offer_of(std::uint64_t number) {
  return {{{7, 7}, number}, 3, 99, "GPU-source", 22809};
}

inline SessionAsk ask_of(int index, std::uint64_t number = 1) {
  return {"engine" + std::to_string(index), 1, {{7, 7}, number}, 3, 99,
          "GPU-" + std::to_string(index), 22809, 0, 0, true};
}

inline driver::NcclUniqueId id_of(std::uint64_t session) {
  driver::NcclUniqueId id;
  id.bytes[0] = static_cast<std::byte>(session);
  return id;
}

}  // namespace weightcast::transport
