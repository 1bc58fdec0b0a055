#include "stream/role_check.hpp"

#include <string>

namespace weightcast::stream {

Status check_role(std::optional<keys::Role> proven, const protocol::Member& claimed) {
  if (!proven) return Status::ok();
  const bool source = claimed.role == protocol::Role::kSource;
  const keys::Role needed = source ? keys::Role::kTrainer : keys::Role::kEngine;
  if (*proven == needed) return Status::ok();
  const std::string has(keys::role_name(*proven));
  const std::string needs(keys::role_name(needed));
  return {Code::kDenied, "'" + claimed.name + "' speaks as a " + (source ? "source" : "receiver") +
                             ", but connected with the key of role " + has +
                             "; a key stands in one list: give it the " + needs +
                             "'s keys, or move its public key to " + needs + ".allowed"};
}

}  // namespace weightcast::stream
