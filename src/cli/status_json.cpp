#include "cli/status_json.hpp"

#include <nlohmann/json.hpp>

namespace weightcast::cli {
namespace {

using Json = nlohmann::ordered_json;

/// Counted up where a field's meaning changes or one goes; new ones may come at any time.
constexpr int kFormat = 1;

Json trainer_json(const JobStatus::Trainer& trainer) {
  return {{"rank", trainer.rank},
          {"host", trainer.host},
          {"pid", trainer.pid},
          {"silence_ns", trainer.silence.count()},
          {"next_point", trainer.next_point},
          {"blocked", trainer.blocked},
          {"staging", trainer.staging},
          {"transport", trainer.transport},
          {"transport_reason", trainer.transport_reason},
          {"slots", trainer.slots},
          {"slot_bytes", trainer.slot_bytes},
          {"captured", trainer.captured},
          {"coalesced", trainer.coalesced},
          {"voided", trainer.voided},
          {"sent_bytes", trainer.sent_bytes},
          {"last_capture_ns", trainer.last_capture.count()},
          {"last_hook_ns", trainer.last_hook.count()},
          {"last_fence_ns", trainer.last_fence.count()}};
}

Json engine_json(const JobStatus::Engine& engine) {
  return {{"name", engine.name},
          {"host", engine.host},
          {"pid", engine.pid},
          {"state", engine_state_name(engine.state)},
          {"silence_ns", engine.silence.count()},
          {"serving", engine.serving.number},
          {"serving_run", to_string(engine.serving.run)},
          {"staleness", engine.staleness},
          {"bringing", engine.bringing},
          {"progress_bytes", engine.progress},
          {"activation", engine.activation},
          {"activation_reason", engine.activation_reason},
          {"transport", engine.transport},
          {"transport_reason", engine.transport_reason},
          {"received_bytes", engine.received_bytes},
          {"leases", engine.leases},
          {"last_stage_ns", engine.last_stage.count()},
          {"last_switch_ns", engine.last_switch.count()},
          {"last_apply_ns", engine.last_apply.count()},
          {"trouble", engine.trouble}};
}

Json round_json(const std::optional<JobStatus::Round>& round) {
  if (!round) return nullptr;
  return {{"version", round->number},
          {"committed", round->committed},
          {"age_ns", round->age.count()},
          {"engines", round->engines},
          {"staged", round->staged}};
}

/// Texts of peers may be of any encoding: what is no UTF-8 is replaced.
std::string dumped(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string status_json(const JobStatus& status, int indent) {
  Json json = {{"format", kFormat},
               {"job", status.job},
               {"policy", status.policy},
               {"run", to_string(status.run)},
               {"mode", status.mode == Mode::kP2p ? "p2p" : "broadcast"},
               {"listening", status.listening},
               {"world_size", status.world_size},
               {"min_receivers", status.min_receivers},
               {"published", status.published},
               {"committed", status.committed},
               {"round", round_json(status.round)},
               {"waiting_for", status.waiting_for},
               {"commits", status.commits},
               {"rounds_aborted", status.rounds_aborted},
               {"engines_evicted", status.engines_evicted},
               {"points_void", status.points_void},
               {"refused", status.refused},
               {"last_applied", status.last_applied},
               {"last_apply_ns", status.last_apply.count()},
               {"left_out", status.left_out},
               {"trainers", Json::array()},
               {"engines", Json::array()},
               {"gone", Json::array()}};
  for (const auto& trainer : status.trainers) json["trainers"].push_back(trainer_json(trainer));
  for (const auto& engine : status.engines) json["engines"].push_back(engine_json(engine));
  for (const auto& gone : status.gone) {
    json["gone"].push_back({{"name", gone.name}, {"why", gone.why}, {"ago_ns", gone.ago.count()}});
  }
  return dumped(json, indent);
}

std::string failure_json(const Status& failure, int indent) {
  return dumped({{"format", kFormat},
                 {"error", {{"code", code_name(failure.code())}, {"message", failure.message()}}}},
                indent);
}

}  // namespace weightcast::cli
