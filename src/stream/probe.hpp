// Asks a coordinator who it is, without joining, and tells apart why one does not answer.
#pragma once

#include <cstdint>
#include <string>

#include <weightcast/types.hpp>

#include "stream/control_socket.hpp"

namespace weightcast::stream {

enum class ProbeEnd {
  kAnswered,      ///< by a coordinator of this protocol version, which takes the connection's key
  kOtherVersion,  ///< by one of another protocol version
  kWrongRole,     ///< by one that knows the key as the other role's
  kUnreachable,   ///< nobody listens there, or no way leads there
  kNoHandshake,   ///< somebody listens there, who does not have the key that is expected of him
  kKeyDenied,     ///< it knows this side's key by no list
  kNonsense,      ///< what it said is no answer of a coordinator
  kSilent         ///< connected, and nothing came before the deadline
};

struct Probe {
  ProbeEnd end = ProbeEnd::kSilent;
  std::string text;    ///< what came, or went wrong, in words
  std::string policy;  ///< kAnswered: which one is published there
  Run run;             ///< kAnswered: the coordinator's
  Duration took{};     ///< from the first byte to the answer
};

/// Sends one Hello for a policy that cannot exist, which every coordinator refuses, changing
/// nothing but its count of refused messages, and waits for the answer.
/// @param endpoint ipc:///<path> or tcp://<host>:<port>
/// @param keys needed over tcp, where without them nothing is said and kNoHandshake means that
///   somebody listens; it speaks as their role
/// Blocks until `deadline`, and for as long as the resolver of names takes. Thread safety: any
/// thread.
Probe probe_coordinator(const std::string& endpoint, const Keys& keys, Deadline deadline);

}  // namespace weightcast::stream
