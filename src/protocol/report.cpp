#include "protocol/report.hpp"

namespace weightcast {

const char* engine_state_name(EngineState state) noexcept {
  switch (state) {
    case EngineState::kJoining: return "joining";
    case EngineState::kCurrent: return "current";
    case EngineState::kBehind: return "behind";
    case EngineState::kInRound: return "in round";
    case EngineState::kCatchingUp: return "catching up";
    case EngineState::kLagging: return "lagging";
    case EngineState::kDirty: return "dirty";
  }
  return "?";
}

namespace protocol {

using Trainer = JobStatus::Trainer;
using Engine = JobStatus::Engine;

void fill(Trainer& trainer, const SourceReport& report) {
  trainer.blocked = report.blocked;
  trainer.staging = report.staging;
  trainer.transport = report.transport;
  trainer.transport_reason = report.transport_reason;
  trainer.slots = report.slots;
  trainer.slot_bytes = report.slot_bytes;
  trainer.captured = report.captured;
  trainer.coalesced = report.coalesced;
  trainer.voided = report.voided;
  trainer.sent_bytes = report.sent_bytes;
  trainer.last_capture = Duration(report.last_capture_ns);
  trainer.last_hook = Duration(report.last_hook_ns);
  trainer.last_fence = Duration(report.last_fence_ns);
}

void fill(Engine& engine, const ReceiverReport& report) {
  engine.activation = report.activation;
  engine.activation_reason = report.activation_reason;
  engine.transport = report.transport;
  engine.transport_reason = report.transport_reason;
  engine.received_bytes = report.received_bytes;
  engine.leases = report.leases;
}

SourceReport report_of(const Trainer& trainer) {
  return {.blocked = trainer.blocked,
          .staging = trainer.staging,
          .transport = trainer.transport,
          .transport_reason = trainer.transport_reason,
          .slots = trainer.slots,
          .slot_bytes = trainer.slot_bytes,
          .captured = trainer.captured,
          .coalesced = trainer.coalesced,
          .voided = trainer.voided,
          .sent_bytes = trainer.sent_bytes,
          .last_capture_ns = trainer.last_capture.count(),
          .last_hook_ns = trainer.last_hook.count(),
          .last_fence_ns = trainer.last_fence.count()};
}

ReceiverReport report_of(const Engine& engine) {
  return {.activation = engine.activation,
          .activation_reason = engine.activation_reason,
          .transport = engine.transport,
          .transport_reason = engine.transport_reason,
          .received_bytes = engine.received_bytes,
          .leases = engine.leases};
}

}  // namespace protocol
}  // namespace weightcast
