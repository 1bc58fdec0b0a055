#include "protocol/wire_status.hpp"

#include <string>

#include "protocol/report.hpp"
#include "protocol/wire_check.hpp"
#include "protocol/wire_fields.hpp"
#include "protocol/wire_text.hpp"

namespace weightcast::protocol {
namespace {

using Trainer = JobStatus::Trainer;
using Engine = JobStatus::Engine;

static_assert(has_fields<SourceReport, 13> && has_fields<ReceiverReport, 6> &&
              has_fields<Trainer, 18> && has_fields<Engine, 19> &&
              has_fields<JobStatus::Gone, 3> && has_fields<JobStatus::Round, 5> &&
              has_fields<JobStatus, 22>);

std::string cut(const std::string& text) { return clean_text(text, kMaxReasonBytes); }

template <class... Text>
Status check_texts(Text&... texts) {
  Status status;
  ((status = status ? check_text("text of a report", texts, kMaxReasonBytes) : status), ...);
  return status;
}

Status check_time(std::int64_t ns) {
  if (ns >= 0) return Status::ok();
  return invalid("expected a time of 0 or more, got " + std::to_string(ns) + " ns");
}

template <class... Ns>
Status check_times(Ns... ns) {
  Status status;
  ((status = status ? check_time(ns) : status), ...);
  return status;
}

void write(const Trainer& trainer, wire::TrainerStatus& out) {
  out.set_rank(trainer.rank);
  out.set_host(trainer.host);
  out.set_pid(trainer.pid);
  out.set_silence(trainer.silence.count());
  out.set_next_point(trainer.next_point);
  protocol::write(report_of(trainer), *out.mutable_report());
}

void write(const Engine& engine, wire::EngineStatus& out) {
  out.set_name(engine.name);
  out.set_host(engine.host);
  out.set_pid(engine.pid);
  out.set_state(static_cast<std::uint32_t>(engine.state));
  out.set_silence(engine.silence.count());
  protocol::write(engine.serving, *out.mutable_serving());
  out.set_staleness(engine.staleness);
  out.set_bringing(engine.bringing);
  out.set_progress(engine.progress);
  protocol::write(report_of(engine), *out.mutable_report());
  out.set_last_stage(engine.last_stage.count());
  out.set_last_switch(engine.last_switch.count());
  out.set_last_apply(engine.last_apply.count());
  out.set_trouble(cut(engine.trouble));
}

Status read(const wire::TrainerStatus& in, Trainer& out) {
  SourceReport report;
  if (Status s = protocol::read(in.report(), report); !s) return s;
  if (Status s = check_address("host", in.host()); !s) return s;
  if (Status s = check_time(in.silence()); !s) return s;
  if (in.rank() >= kMaxRanks) {
    return invalid("expected a rank below " + std::to_string(kMaxRanks) + ", got " +
                   std::to_string(in.rank()));
  }
  out.rank = in.rank();
  out.host = in.host();
  out.pid = in.pid();
  out.silence = Duration(in.silence());
  out.next_point = in.next_point();
  fill(out, report);
  return Status::ok();
}

Status read(const wire::EngineStatus& in, Engine& out) {
  ReceiverReport report;
  if (Status s = protocol::read(in.report(), report); !s) return s;
  if (Status s = check_name("engine's name", in.name()); !s) return s;
  if (Status s = check_address("host", in.host()); !s) return s;
  if (Status s = take_enum("engine's state", static_cast<int>(in.state()), EngineState::kJoining,
                           EngineState::kDirty, out.state);
      !s) {
    return s;
  }
  if (Status s = check_times(in.silence(), in.last_stage(), in.last_switch(), in.last_apply()); !s) {
    return s;
  }
  out.name = in.name();
  out.host = in.host();
  out.pid = in.pid();
  out.silence = Duration(in.silence());
  out.serving = protocol::read(in.serving());
  out.staleness = in.staleness();
  out.bringing = in.bringing();
  out.progress = in.progress();
  fill(out, report);
  out.last_stage = Duration(in.last_stage());
  out.last_switch = Duration(in.last_switch());
  out.last_apply = Duration(in.last_apply());
  out.trouble = in.trouble();
  return check_texts(out.trouble);
}

Status read(const wire::GoneMember& in, JobStatus::Gone& out) {
  if (Status s = check_name("former member's name", in.name()); !s) return s;
  out.name = in.name();
  out.why = in.why();
  out.ago = Duration(in.ago());
  if (Status s = check_time(in.ago()); !s) return s;
  return check_texts(out.why);
}

}  // namespace

void write(const Run& run, wire::Run& out) {
  out.set_started_us(run.started_us);
  out.set_tie(run.tie);
}

void write(const Version& version, wire::Version& out) {
  write(version.run, *out.mutable_run());
  out.set_number(version.number);
}

Run read(const wire::Run& in) { return {.started_us = in.started_us(), .tie = in.tie()}; }

Version read(const wire::Version& in) { return {.run = read(in.run()), .number = in.number()}; }

void write(const SourceReport& report, wire::SourceReport& out) {
  out.set_blocked(cut(report.blocked));
  out.set_staging(cut(report.staging));
  out.set_transport(cut(report.transport));
  out.set_transport_reason(cut(report.transport_reason));
  out.set_slots(report.slots);
  out.set_slot_bytes(report.slot_bytes);
  out.set_captured(report.captured);
  out.set_coalesced(report.coalesced);
  out.set_voided(report.voided);
  out.set_sent_bytes(report.sent_bytes);
  out.set_last_capture_ns(report.last_capture_ns);
  out.set_last_hook_ns(report.last_hook_ns);
  out.set_last_fence_ns(report.last_fence_ns);
}

void write(const ReceiverReport& report, wire::ReceiverReport& out) {
  out.set_activation(cut(report.activation));
  out.set_activation_reason(cut(report.activation_reason));
  out.set_transport(cut(report.transport));
  out.set_transport_reason(cut(report.transport_reason));
  out.set_received_bytes(report.received_bytes);
  out.set_leases(report.leases);
}

Status read(const wire::SourceReport& in, SourceReport& out) {
  out = {.blocked = in.blocked(),
         .staging = in.staging(),
         .transport = in.transport(),
         .transport_reason = in.transport_reason(),
         .slots = in.slots(),
         .slot_bytes = in.slot_bytes(),
         .captured = in.captured(),
         .coalesced = in.coalesced(),
         .voided = in.voided(),
         .sent_bytes = in.sent_bytes(),
         .last_capture_ns = in.last_capture_ns(),
         .last_hook_ns = in.last_hook_ns(),
         .last_fence_ns = in.last_fence_ns()};
  if (Status s = check_times(in.last_capture_ns(), in.last_hook_ns(), in.last_fence_ns()); !s) {
    return s;
  }
  return check_texts(out.blocked, out.staging, out.transport, out.transport_reason);
}

Status read(const wire::ReceiverReport& in, ReceiverReport& out) {
  out = {.activation = in.activation(),
         .activation_reason = in.activation_reason(),
         .transport = in.transport(),
         .transport_reason = in.transport_reason(),
         .received_bytes = in.received_bytes(),
         .leases = in.leases()};
  return check_texts(out.activation, out.activation_reason, out.transport, out.transport_reason);
}

void write(const JobStatus& status, wire::JobStatus& out) {
  out.set_job(status.job);
  out.set_policy(status.policy);
  write(status.run, *out.mutable_run());
  out.set_p2p(status.mode == Mode::kP2p);
  out.set_listening(status.listening);
  out.set_world_size(status.world_size);
  out.set_min_receivers(status.min_receivers);
  out.set_published(status.published);
  out.set_committed(status.committed);
  if (status.round) {
    wire::RoundStatus& round = *out.mutable_round();
    round.set_number(status.round->number);
    round.set_committed(status.round->committed);
    round.set_age(status.round->age.count());
    round.set_engines(status.round->engines);
    round.set_staged(status.round->staged);
  }
  out.set_waiting_for(cut(status.waiting_for));
  out.set_commits(status.commits);
  out.set_rounds_aborted(status.rounds_aborted);
  out.set_engines_evicted(status.engines_evicted);
  out.set_points_void(status.points_void);
  out.set_refused(status.refused);
  out.set_last_applied(status.last_applied);
  out.set_last_apply(status.last_apply.count());
  for (const Trainer& trainer : status.trainers) write(trainer, *out.add_trainers());
  for (const Engine& engine : status.engines) write(engine, *out.add_engines());
  out.set_left_out(status.left_out);
  for (const JobStatus::Gone& gone : status.gone) {
    wire::GoneMember& to = *out.add_gone();
    to.set_name(gone.name);
    to.set_why(cut(gone.why));
    to.set_ago(gone.ago.count());
  }
}

Status read(const wire::JobStatus& in, JobStatus& out) {
  if (Status s = check_name("job's name", in.job()); !s) return s;
  if (Status s = check_name("policy's name", in.policy()); !s) return s;
  if (Status s = check_address("listening endpoint", in.listening()); !s) return s;
  if (Status s = check_times(in.last_apply(), in.round().age()); !s) return s;
  out.job = in.job();
  out.policy = in.policy();
  out.run = read(in.run());
  out.mode = in.p2p() ? Mode::kP2p : Mode::kBroadcast;
  out.listening = in.listening();
  out.world_size = in.world_size();
  out.min_receivers = in.min_receivers();
  out.published = in.published();
  out.committed = in.committed();
  out.round.reset();
  if (in.has_round()) {
    out.round = JobStatus::Round{.number = in.round().number(),
                                 .committed = in.round().committed(),
                                 .age = Duration(in.round().age()),
                                 .engines = in.round().engines(),
                                 .staged = in.round().staged()};
  }
  out.waiting_for = in.waiting_for();
  if (Status s = check_texts(out.waiting_for); !s) return s;
  out.commits = in.commits();
  out.rounds_aborted = in.rounds_aborted();
  out.engines_evicted = in.engines_evicted();
  out.points_void = in.points_void();
  out.refused = in.refused();
  out.last_applied = in.last_applied();
  out.last_apply = Duration(in.last_apply());
  for (const wire::TrainerStatus& trainer : in.trainers()) {
    if (Status s = read(trainer, out.trainers.emplace_back()); !s) return s;
  }
  for (const wire::EngineStatus& engine : in.engines()) {
    if (Status s = read(engine, out.engines.emplace_back()); !s) return s;
  }
  out.left_out = in.left_out();
  for (const wire::GoneMember& gone : in.gone()) {
    if (Status s = read(gone, out.gone.emplace_back()); !s) return s;
  }
  return Status::ok();
}

}  // namespace weightcast::protocol
