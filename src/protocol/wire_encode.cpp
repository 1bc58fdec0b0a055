#include <cstddef>
#include <utility>

#include "proto/weightcast.pb.h"
#include "protocol/wire.hpp"
#include "protocol/wire_fields.hpp"
#include "protocol/wire_status.hpp"
#include "protocol/wire_text.hpp"

namespace weightcast::protocol {
namespace {

using protocol::write;  // beside those of this file

// has_fields: a field that is added to a body and forgotten here does not compile. wire_decode.cpp reads what is
// written here.

static_assert(has_fields<Hello, 13> && has_fields<SourceState, 8> && has_fields<Sealed, 7> &&
              has_fields<ReceiverState, 10> && has_fields<FlushRequest, 3> && has_fields<Bye, 0> &&
              has_fields<Welcome, 1> && has_fields<Refused, 2> && has_fields<SourceOrders, 9> &&
              has_fields<Prepare, 5> && has_fields<ReceiverOrders, 5> && has_fields<Verdict, 5> &&
              has_fields<Capturing, 3> && has_fields<Ahead, 2> &&
              has_fields<StatusRequest, 1> && has_fields<StatusAnswer, 2> &&
              has_fields<plan::Share, 11> && has_fields<plan::ShareEntry, 3> &&
              has_fields<TensorInfo, 7> && has_fields<Member, 3> && has_fields<Message, 3>);
static_assert(std::variant_size_v<Body> == 16);

void write(const plan::Share& share, wire::Share& out) {
  out.set_rank(share.rank);
  out.set_object(share.object);
  out.set_generation(share.generation);
  out.set_payload_bytes(share.payload_bytes);
  out.set_host(share.host);
  out.set_endpoint(share.endpoint);
  out.set_device(share.device);
  out.set_device_memory(share.device_memory);
  out.set_device_offset(share.device_offset);
  out.set_nccl_device(share.nccl_device);
  out.mutable_entries()->Reserve(static_cast<int>(share.entries.size()));
  for (const plan::ShareEntry& entry : share.entries) {
    wire::ShareEntry& to = *out.add_entries();
    to.set_name(entry.info.name);
    for (const std::string& alias : entry.info.aliases) to.add_aliases(alias);
    to.set_dtype(static_cast<wire::DType>(entry.info.dtype));
    for (std::int64_t d : entry.info.shape) to.add_shape(d);
    to.set_buffer(entry.info.buffer);
    for (std::int64_t d : entry.info.global_shape) to.add_global_shape(d);
    for (std::int64_t d : entry.info.origin) to.add_origin(d);
    to.set_offset(entry.offset);
    to.set_digest_a(entry.digest.a);
    to.set_digest_b(entry.digest.b);
  }
}

void write_body(const Hello& body, wire::Envelope& out) {
  wire::Hello& to = *out.mutable_hello();
  to.set_rank(body.rank);
  to.set_world_size(body.world_size);
  to.set_launch(body.launch);
  to.set_policy(body.policy);
  write(body.highest_run, *to.mutable_highest_run());
  write(body.serving, *to.mutable_serving());
  to.set_next_point(body.next_point);
  to.set_in_place(body.in_place);
  to.set_over_network(body.over_network);
  to.set_clock(body.clock);
  to.set_relay_endpoint(body.relay_endpoint);
  to.set_host(body.host);
  to.set_pid(body.pid);
}

void write_body(const SourceState& body, wire::Envelope& out) {
  wire::SourceState& to = *out.mutable_source_state();
  to.set_sequence(body.sequence);
  to.set_next_point(body.next_point);
  to.set_waiting(body.waiting);
  to.set_ready(body.ready);
  to.set_grant_ordinal(body.grant_ordinal);
  to.set_grant_void(body.grant_void);
  to.set_void_reason(clean_text(body.void_reason));
  if (body.report) write(*body.report, *to.mutable_report());
}

void write_body(const Sealed& body, wire::Envelope& out) {
  wire::Sealed& to = *out.mutable_sealed();
  to.set_grant_ordinal(body.grant_ordinal);
  to.set_point(body.point);
  to.set_layout_fingerprint(body.layout_fingerprint);
  write(body.share, *to.mutable_share());
  if (body.has_policy_digest) {
    to.mutable_policy_digest()->set_a(body.policy_digest.a);
    to.mutable_policy_digest()->set_b(body.policy_digest.b);
  }
  to.set_captured_at_ns(body.captured_at_ns);
}

void write_body(const Capturing& body, wire::Envelope& out) {
  wire::Capturing& to = *out.mutable_capturing();
  to.set_grant_ordinal(body.grant_ordinal);
  to.set_point(body.point);
  write(body.share, *to.mutable_share());
}

void write_body(const Ahead& body, wire::Envelope& out) {
  wire::Ahead& to = *out.mutable_ahead();
  to.set_number(body.number);
  wire::Manifest& manifest = *to.mutable_manifest();
  for (const plan::Share& share : body.manifest.shares) write(share, *manifest.add_shares());
}

void write_body(const ReceiverState& body, wire::Envelope& out) {
  wire::ReceiverState& to = *out.mutable_receiver_state();
  to.set_sequence(body.sequence);
  to.set_attempt(body.attempt);
  to.set_phase(static_cast<wire::Phase>(body.phase));
  to.set_failure(clean_text(body.failure));
  write(body.serving, *to.mutable_serving());
  to.set_lagging(body.lagging);
  to.set_applied_at_ns(body.applied_at_ns);
  to.set_dirty(body.dirty);
  to.set_progress(body.progress);
  if (body.report) write(*body.report, *to.mutable_report());
}

void write_body(const FlushRequest& body, wire::Envelope& out) {
  wire::FlushRequest& to = *out.mutable_flush_request();
  to.set_ordinal(body.ordinal);
  to.set_point(body.point);
  to.set_grant_ordinal(body.grant_ordinal);
}

void write_body(const Bye&, wire::Envelope& out) { out.mutable_bye(); }

void write_body(const Welcome& body, wire::Envelope& out) {
  out.mutable_welcome()->set_next_point(body.next_point);
}

void write_body(const Refused& body, wire::Envelope& out) {
  wire::Refused& to = *out.mutable_refused();
  to.set_reason(static_cast<wire::Refusal>(body.reason));
  to.set_message(clean_text(body.message));
}

void write_body(const SourceOrders& body, wire::Envelope& out) {
  wire::SourceOrders& to = *out.mutable_source_orders();
  to.set_sequence(body.sequence);
  to.set_grant_ordinal(body.grant_ordinal);
  to.set_grant_point(body.grant_point);
  to.set_grant_open(body.grant_open);
  to.set_compare(body.compare);
  to.set_sealed_ordinal(body.sealed_ordinal);
  for (std::uint64_t point : body.keep) to.add_keep(point);
  to.set_published(body.published);
  to.set_committed(body.committed);
}

void write_body(const Prepare& body, wire::Envelope& out) {
  wire::Prepare& to = *out.mutable_prepare();
  to.set_attempt(body.attempt);
  to.set_number(body.number);
  to.set_relay_name(body.relay_name);
  to.set_relay(body.relay);
  wire::Manifest& manifest = *to.mutable_manifest();
  for (const plan::Share& share : body.manifest.shares) write(share, *manifest.add_shares());
}

void write_body(const ReceiverOrders& body, wire::Envelope& out) {
  wire::ReceiverOrders& to = *out.mutable_receiver_orders();
  to.set_sequence(body.sequence);
  to.set_attempt(body.attempt);
  to.set_order(static_cast<wire::Order>(body.order));
  to.set_published(body.published);
  to.set_committed(body.committed);
}

void write_body(const Verdict& body, wire::Envelope& out) {
  wire::Verdict& to = *out.mutable_verdict();
  to.set_ordinal(body.ordinal);
  to.set_number(body.number);
  for (const std::string& name : body.applied) to.add_applied(name);
  for (const std::string& name : body.lost) to.add_lost(name);
  to.set_min_receivers(body.min_receivers);
}

void write_body(const StatusRequest& body, wire::Envelope& out) {
  out.mutable_status_request()->set_ordinal(body.ordinal);
}

void write_body(const StatusAnswer& body, wire::Envelope& out) {
  out.mutable_status_answer()->set_ordinal(body.ordinal);
  write(body.status, *out.mutable_status_answer()->mutable_status());
}

}  // namespace

std::string encode(const Message& message) {
  wire::Envelope envelope;
  envelope.set_protocol_version(kProtocolVersion);
  write(message.run, *envelope.mutable_run());
  envelope.set_role(static_cast<wire::Role>(message.member.role));
  envelope.set_name(message.member.name);
  envelope.set_incarnation(message.member.incarnation);
  std::visit([&](const auto& body) { write_body(body, envelope); }, message.body);
  std::string bytes;
  if (!envelope.SerializeToString(&bytes)) bytes.clear();
  return bytes;
}

}  // namespace weightcast::protocol
