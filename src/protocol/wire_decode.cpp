#include <algorithm>
#include <string_view>
#include <type_traits>
#include <utility>

#include "proto/weightcast.pb.h"
#include "protocol/wire.hpp"
#include "protocol/wire_check.hpp"
#include "protocol/wire_limits.hpp"
#include "protocol/wire_status.hpp"

namespace weightcast::protocol {
namespace {

using protocol::read;  // beside those of this file

Status mismatch(std::uint32_t theirs) {
  return {Code::kMismatch, "expected protocol version " + std::to_string(kProtocolVersion) +
                               ", got " + std::to_string(theirs) +
                               "; install the same weightcast in trainer and engines"};
}

/// Which members a body goes between.
template <class T>
constexpr bool fits(Role role) {
  if constexpr (std::is_same_v<T, SourceState> || std::is_same_v<T, Sealed> || std::is_same_v<T, Capturing> ||
                std::is_same_v<T, FlushRequest> || std::is_same_v<T, SourceOrders> ||
                std::is_same_v<T, Verdict>) {
    return role == Role::kSource;
  } else if constexpr (std::is_same_v<T, ReceiverState> || std::is_same_v<T, Prepare> ||
                       std::is_same_v<T, Ahead> ||
                       std::is_same_v<T, ReceiverOrders>) {
    return role == Role::kReceiver;
  } else {
    return true;
  }
}

// ---- parts ----------------------------------------------------------------------------------

/// What only the wire can get wrong is checked here; check_share has the rest.
Status read(const wire::Share& in, plan::Share& out) {
  out.rank = in.rank();
  out.object = in.object();
  out.generation = in.generation();
  out.payload_bytes = in.payload_bytes();
  out.host = in.host();
  out.endpoint = in.endpoint();
  out.device = in.device();
  out.device_memory = in.device_memory();
  out.device_offset = in.device_offset();
  out.nccl_device = in.nccl_device();
  if (std::any_of(out.object.begin(), out.object.end(), is_control)) {
    return invalid("expected a shared-memory object's name, got control characters");
  }
  if (Status s = check_address("host", out.host); !s) return s;
  if (Status s = check_address("endpoint", out.endpoint); !s) return s;
  if (Status s = check_address("device", out.device); !s) return s;
  if (Status s = check_address("device for NCCL", out.nccl_device); !s) return s;
  const std::size_t handle_bytes = out.device.empty() ? 0 : plan::kDeviceHandleBytes;
  if (out.device_memory.size() != handle_bytes) {
    return invalid("expected a device allocation's name of " + std::to_string(handle_bytes) +
                   " bytes, got " + std::to_string(out.device_memory.size()));
  }
  out.entries.resize(static_cast<std::size_t>(in.entries_size()));
  for (int i = 0; i < in.entries_size(); ++i) {
    const wire::ShareEntry& from = in.entries(i);
    plan::ShareEntry& to = out.entries[static_cast<std::size_t>(i)];
    to.info.name = from.name();
    to.info.aliases.assign(from.aliases().begin(), from.aliases().end());
    if (Status s = take_enum("dtype", from.dtype(), DType::kF64, DType::kBool, to.info.dtype); !s) {
      return s;
    }
    to.info.shape.assign(from.shape().begin(), from.shape().end());
    to.info.buffer = from.buffer();
    to.info.global_shape.assign(from.global_shape().begin(), from.global_shape().end());
    to.info.origin.assign(from.origin().begin(), from.origin().end());
    to.offset = from.offset();
    to.digest = {.a = from.digest_a(), .b = from.digest_b()};
  }
  return Status::ok();
}

Status read(const wire::Manifest& in, plan::Manifest& out) {
  out.shares.resize(static_cast<std::size_t>(in.shares_size()));
  for (int i = 0; i < in.shares_size(); ++i) {
    if (Status s = read(in.shares(i), out.shares[static_cast<std::size_t>(i)]); !s) return s;
  }
  return plan::check_manifest(out);
}

// ---- bodies ---------------------------------------------------------------------------------

Status read_body(const wire::Hello& in, Role role, Hello& out) {
  out = {.rank = in.rank(),
         .world_size = in.world_size(),
         .launch = in.launch(),
         .policy = in.policy(),
         .highest_run = read(in.highest_run()),
         .serving = read(in.serving()),
         .next_point = in.next_point(),
         .in_place = in.in_place(),
         .over_network = in.over_network(),
         .clock = in.clock(),
         .relay_endpoint = in.relay_endpoint(),
         .host = in.host(),
         .pid = in.pid()};
  if (Status s = check_address("host", out.host); !s) return s;
  if (Status s = check_address("clock", out.clock); !s) return s;
  if (Status s = check_address("relay endpoint", out.relay_endpoint); !s) return s;
  if (role == Role::kSource && (out.world_size > kMaxRanks || out.rank >= out.world_size)) {
    return invalid("expected a rank below a world size of at most " + std::to_string(kMaxRanks) +
                   ", got rank " + std::to_string(out.rank) + " of " +
                   std::to_string(out.world_size));
  }
  if (out.launch.size() > kMaxLaunchBytes ||
      std::any_of(out.launch.begin(), out.launch.end(), is_control)) {
    return invalid("expected a launch of at most " + std::to_string(kMaxLaunchBytes) +
                   " bytes without control characters, got " + std::to_string(out.launch.size()) +
                   " bytes");
  }
  return check_name("policy's name", out.policy);
}

Status read_body(const wire::SourceState& in, Role, SourceState& out) {
  out = {.sequence = in.sequence(),
         .next_point = in.next_point(),
         .waiting = in.waiting(),
         .ready = in.ready(),
         .grant_ordinal = in.grant_ordinal(),
         .grant_void = in.grant_void(),
         .void_reason = in.void_reason()};
  if (in.has_report()) {
    if (Status s = read(in.report(), out.report.emplace()); !s) return s;
  }
  return check_text("reason", out.void_reason);
}

Status read_body(const wire::Sealed& in, Role, Sealed& out) {
  out.grant_ordinal = in.grant_ordinal();
  out.point = in.point();
  out.layout_fingerprint = in.layout_fingerprint();
  out.has_policy_digest = in.has_policy_digest();
  out.policy_digest = {.a = in.policy_digest().a(), .b = in.policy_digest().b()};
  out.captured_at_ns = in.captured_at_ns();
  if (!in.has_share()) return invalid("expected a share in Sealed, got none");
  if (Status s = read(in.share(), out.share); !s) return s;
  return plan::check_share(out.share);
}

Status read_body(const wire::Capturing& in, Role, Capturing& out) {
  out.grant_ordinal = in.grant_ordinal();
  out.point = in.point();
  if (!in.has_share()) return invalid("expected a share in Capturing, got none");
  if (Status s = read(in.share(), out.share); !s) return s;
  return plan::check_share(out.share);
}

Status read_body(const wire::ReceiverState& in, Role, ReceiverState& out) {
  out = {.sequence = in.sequence(),
         .attempt = in.attempt(),
         .phase = Phase::kIdle,
         .failure = in.failure(),
         .serving = read(in.serving()),
         .lagging = in.lagging(),
         .applied_at_ns = in.applied_at_ns(),
         .dirty = in.dirty(),
         .progress = in.progress()};
  if (in.has_report()) {
    if (Status s = read(in.report(), out.report.emplace()); !s) return s;
  }
  if (Status s = take_enum("phase", in.phase(), Phase::kIdle, Phase::kApplied, out.phase); !s) {
    return s;
  }
  return check_text("failure", out.failure);
}

Status read_body(const wire::FlushRequest& in, Role, FlushRequest& out) {
  out = {.ordinal = in.ordinal(), .point = in.point(), .grant_ordinal = in.grant_ordinal()};
  return Status::ok();
}

Status read_body(const wire::Bye&, Role, Bye&) { return Status::ok(); }

Status read_body(const wire::Welcome& in, Role, Welcome& out) {
  out = {.next_point = in.next_point()};
  return Status::ok();
}

Status read_body(const wire::Refused& in, Role, Refused& out) {
  if (Status s = take_enum("refusal", in.reason(), Refusal::kStale, Refusal::kRole, out.reason);
      !s) {
    return s;
  }
  out.message = in.message();
  return check_text("refusal's message", out.message);
}

Status read_body(const wire::SourceOrders& in, Role, SourceOrders& out) {
  out = {.sequence = in.sequence(),
         .grant_ordinal = in.grant_ordinal(),
         .grant_point = in.grant_point(),
         .grant_open = in.grant_open(),
         .compare = in.compare(),
         .sealed_ordinal = in.sealed_ordinal(),
         .keep = {in.keep().begin(), in.keep().end()},
         .published = in.published(),
         .committed = in.committed()};
  return Status::ok();
}

Status read_body(const wire::Prepare& in, Role, Prepare& out) {
  out.attempt = in.attempt();
  out.number = in.number();
  out.relay_name = in.relay_name();
  out.relay = in.relay();
  if (Status s = check_address("relay", out.relay); !s) return s;
  if (!out.relay_name.empty()) {
    if (Status s = check_name("relay's name", out.relay_name); !s) return s;
  }
  return read(in.manifest(), out.manifest);
}

Status read_body(const wire::Ahead& in, Role, Ahead& out) {
  out.number = in.number();
  return read(in.manifest(), out.manifest);
}

Status read_body(const wire::ReceiverOrders& in, Role, ReceiverOrders& out) {
  out = {.sequence = in.sequence(),
         .attempt = in.attempt(),
         .order = Order::kNone,
         .published = in.published(),
         .committed = in.committed()};
  return take_enum("order", in.order(), Order::kNone, Order::kAbort, out.order);
}

Status read_body(const wire::Verdict& in, Role, Verdict& out) {
  out = {.ordinal = in.ordinal(),
         .number = in.number(),
         .applied = {in.applied().begin(), in.applied().end()},
         .lost = {in.lost().begin(), in.lost().end()},
         .min_receivers = in.min_receivers()};
  if (Status s = check_names("receiver's name", out.applied); !s) return s;
  return check_names("receiver's name", out.lost);
}

Status read_body(const wire::StatusRequest& in, Role, StatusRequest& out) {
  out = {.ordinal = in.ordinal()};
  return Status::ok();
}

Status read_body(const wire::StatusAnswer& in, Role, StatusAnswer& out) {
  out.ordinal = in.ordinal();
  return read(in.status(), out.status);
}

template <class T, class W>
Status take_body(const W& in, Message& out) {
  if (!fits<T>(out.member.role)) {
    return invalid("expected a body that fits the member's role, got that of the other role");
  }
  return read_body(in, out.member.role, out.body.emplace<T>());
}

Status read_body(const wire::Envelope& in, Message& out) {
  switch (in.body_case()) {
    case wire::Envelope::kHello: return take_body<Hello>(in.hello(), out);
    case wire::Envelope::kSourceState: return take_body<SourceState>(in.source_state(), out);
    case wire::Envelope::kSealed: return take_body<Sealed>(in.sealed(), out);
    case wire::Envelope::kReceiverState: return take_body<ReceiverState>(in.receiver_state(), out);
    case wire::Envelope::kFlushRequest: return take_body<FlushRequest>(in.flush_request(), out);
    case wire::Envelope::kBye: return take_body<Bye>(in.bye(), out);
    case wire::Envelope::kWelcome: return take_body<Welcome>(in.welcome(), out);
    case wire::Envelope::kRefused: return take_body<Refused>(in.refused(), out);
    case wire::Envelope::kSourceOrders: return take_body<SourceOrders>(in.source_orders(), out);
    case wire::Envelope::kPrepare: return take_body<Prepare>(in.prepare(), out);
    case wire::Envelope::kReceiverOrders: return take_body<ReceiverOrders>(in.receiver_orders(), out);
    case wire::Envelope::kCapturing: return take_body<Capturing>(in.capturing(), out);
    case wire::Envelope::kAhead: return take_body<Ahead>(in.ahead(), out);
    case wire::Envelope::kVerdict: return take_body<Verdict>(in.verdict(), out);
    case wire::Envelope::kStatusRequest: return take_body<StatusRequest>(in.status_request(), out);
    case wire::Envelope::kStatusAnswer: return take_body<StatusAnswer>(in.status_answer(), out);
    case wire::Envelope::BODY_NOT_SET: break;
  }
  return invalid("expected a message with a known body, got none");
}

/// Of an Envelope or a Preamble: their fields are the same.
template <class W>
Status read_member(const W& in, Member& out) {
  if (Status s = take_enum("role", in.role(), Role::kSource, Role::kReceiver, out.role); !s) return s;
  if (Status s = check_name("member's name", in.name()); !s) return s;
  out.name = in.name();
  out.incarnation = in.incarnation();
  return Status::ok();
}

bool parse(std::span<const std::byte> bytes, google::protobuf::MessageLite& out) {
  // The size fits an int: it is at most kMaxMessageBytes.
  return out.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

}  // namespace

Result<Message> decode(std::span<const std::byte> bytes) {
  if (bytes.size() > kMaxMessageBytes) {
    return invalid("expected a message of at most " + std::to_string(kMaxMessageBytes) +
                   " bytes, got " + std::to_string(bytes.size()));
  }
  const Status limits = check_limits(bytes);
  wire::Envelope envelope;
  if (!limits || !parse(bytes, envelope)) {
    // Another version's body may look like nonsense to us: then its number is the better answer.
    wire::Preamble preamble;
    if (parse(bytes, preamble) && preamble.protocol_version() != 0 &&
        preamble.protocol_version() != kProtocolVersion) {
      return mismatch(preamble.protocol_version());
    }
    return invalid(limits ? "expected a message of weightcast, got " +
                                std::to_string(bytes.size()) + " bytes that are none"
                          : limits.message());
  }
  if (envelope.protocol_version() == 0) {
    return invalid("expected a protocol version, got none");
  }
  if (envelope.protocol_version() != kProtocolVersion) {
    return mismatch(envelope.protocol_version());
  }
  // Who asks is no member: what it may make us hold stays small.
  if (envelope.has_status_request() && bytes.size() > kMaxRequestBytes) {
    return invalid("expected a status request of at most " + std::to_string(kMaxRequestBytes) +
                   " bytes, got " + std::to_string(bytes.size()));
  }
  Message message;
  message.run = read(envelope.run());
  if (Status s = read_member(envelope, message.member); !s) return s;
  if (Status s = read_body(envelope, message); !s) return s;
  return message;
}

std::optional<Member> peek_member(std::span<const std::byte> bytes) {
  wire::Preamble preamble;
  if (bytes.size() > kMaxMessageBytes || !parse(bytes, preamble)) return std::nullopt;
  Member member;
  if (!read_member(preamble, member)) return std::nullopt;
  return member;
}

}  // namespace weightcast::protocol
