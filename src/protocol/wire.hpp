// Messages as bytes: Protocol Buffers (proto/weightcast.proto), and the check of everything that
// comes from a peer.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "protocol/message.hpp"

namespace weightcast::protocol {

/// Larger messages are refused before they are parsed.
inline constexpr std::size_t kMaxMessageBytes = 256u << 20;

/// Further limits of what is believed of a peer.
inline constexpr std::size_t kMaxMemberNameBytes = 128;  ///< [A-Za-z0-9._:@-]; policies' names too
inline constexpr std::size_t kMaxLaunchBytes = 1024;
inline constexpr std::size_t kMaxTextBytes = 4096;    ///< reasons, failures, messages
inline constexpr std::size_t kMaxRanks = 65536;       ///< world size, shares of a manifest
inline constexpr std::size_t kMaxAddressBytes = 300;  ///< endpoints, identities of hosts
inline constexpr std::size_t kMaxKeep = 64;           ///< SourceOrders.keep
inline constexpr std::size_t kMaxListed = 100'000;    ///< Verdict.applied, Verdict.lost
inline constexpr std::size_t kMaxReasonBytes = 512;   ///< each text of a report or a status; longer ones are cut
inline constexpr std::size_t kMaxMembersShown = 1024; ///< of each role in a StatusAnswer
inline constexpr std::size_t kMaxGoneShown = 16;
inline constexpr std::size_t kMaxRequestBytes = 512;  ///< of a message that is a StatusRequest

/// The bytes of a message. Texts beyond kMaxTextBytes are cut, their control characters made blanks;
/// nothing else is checked: a message that decode() would refuse becomes bytes all the same. Empty
/// where the message is larger than Protocol Buffers can write (2 GiB).
/// Thread safety: pure.
std::string encode(const Message& message);

/// Parses and checks. A message that comes out is safe to act on: enums are known, names and texts
/// have bounded lengths and no control characters, manifests hold together (plan::check_share /
/// check_manifest), lists are bounded, and the body is one that a member of that role sends or gets.
/// The memory it takes is bounded by the limits above, not by what the bytes claim.
/// Thread safety: pure.
/// @return kMismatch for another protocol version (the message says both numbers), kInvalid for
///   anything else that is wrong
Result<Message> decode(std::span<const std::byte> bytes);

/// Who sent a message, or whom it is for, where decode() gave kMismatch or kInvalid: by it a Refused
/// can be addressed. Works for every protocol version, whatever the body. Empty where even that part
/// makes no sense. Thread safety: pure.
std::optional<Member> peek_member(std::span<const std::byte> bytes);

}  // namespace weightcast::protocol
