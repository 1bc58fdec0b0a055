#include "config/check.hpp"

#include <string_view>

#include "config/assignment.hpp"
#include "config/keys.hpp"
#include "config/place.hpp"

namespace weightcast::config {

std::string from_where(const Origins& origins, std::string_view key) {
  const auto it = origins.find(key);
  return it == origins.end() || it->second.text.empty() ? "" : " (" + it->second.text + ")";
}

namespace {

template <class S>
class Checker {
 public:
  Checker(const S& settings, const Origins& origins) : settings_(settings), origins_(origins) {}

  /// "listen = 0.0.0.0:29577 (flag --weightcast.listen)".
  std::string named(std::string_view name) const {
    const Key<S>& key = *find_key<S>(name);
    std::string value = key.show(settings_);
    if (key.type == Text::kType && (value.empty() || !parse_place(value))) value = shown(value);
    return key.name + " = " + value + from_where(origins_, name);
  }
  Status refuse(std::string_view name, const std::string& expected) const {
    return Status(Code::kInvalid, "option " + named(name) + ": expected " + expected);
  }
  /// Two that do not go together.
  Status refuse(std::string_view name, std::string_view other, const std::string& expected) const {
    return Status(Code::kInvalid, "options " + named(name) + " and " + named(other) +
                                      " do not go together: expected " + expected);
  }

  Status each_value() const {
    for (const Key<S>& key : keys_of<S>()) {
      if (!key.is_allowed(settings_)) return refuse(key.name, key.allowed);
    }
    return Status::ok();
  }

  Status heartbeats() const {
    if (settings_.member_timeout >= 3 * settings_.heartbeat) return Status::ok();
    return refuse("member_timeout", "heartbeat", "a member_timeout of at least three heartbeats");
  }

  /// Whether the key names a place that other hosts reach or are on. Values are checked before.
  bool is_abroad(const std::string& place) const {
    return !place.empty() && !is_loopback(parse_place(place)->host);
  }

  Status is_reached(std::string_view name, const std::string& place) const {
    if (!is_abroad(place)) return Status::ok();
    if (settings_.transport == TransportChoice::kShm ||
        settings_.transport == TransportChoice::kCudaIpc) {
      return refuse("transport", name,
                    "transport = auto or tcp, or nccl between devices, where other hosts take part: "
                    "shared memory and cuda_ipc end at a host");
    }
    if (settings_.keys.empty()) {
      return Status(
          Code::kInvalid,
          "option keys is empty, and " + named(name) +
              " lets other hosts take part: expected the folder of keys, the same on every "
              "host. `weightcast keygen --directory DIR` makes them; copy that folder to "
              "every host and set keys to it");
    }
    return Status::ok();
  }

 private:
  const S& settings_;
  const Origins& origins_;
};

}  // namespace

Status check(const TrainerSettings& settings, const Origins& origins) {
  const Checker<TrainerSettings> checker(settings, origins);
  if (Status s = checker.each_value(); !s) return s;
  if (settings.rank >= settings.world_size) {
    return checker.refuse("rank", "a rank below " + checker.named("world_size"));
  }
  if (Status s = checker.heartbeats(); !s) return s;
  if (settings.attempt_timeout < settings.heartbeat) {
    return checker.refuse("attempt_timeout", "heartbeat",
                          "an attempt_timeout of at least one heartbeat");
  }
  if (settings.rank == 0 && !settings.coordinator.empty()) {
    return checker.refuse(
        "coordinator", "rank",
        "no coordinator on rank 0, which is it: set listen there, and coordinator "
        "only on ranks of other hosts and, in a file, in [worker]");
  }
  const std::string_view abroad = settings.rank == 0 ? "listen" : "coordinator";
  if (settings.transport == TransportChoice::kNccl && !settings.trusted_fabric &&
      checker.is_abroad(settings.rank == 0 ? settings.listen : settings.coordinator)) {
    return checker.refuse("transport", abroad,
                          "transport = auto or tcp, which are encrypted between hosts; or "
                          "trusted_fabric = true, where the links between them are your own");
  }
  // Rank 0 alone listens there: for others it says that other hosts take part, so that all ranks may
  // have the same configuration.
  if (settings.rank == 0) return checker.is_reached("listen", settings.listen);
  return checker.is_reached("coordinator", settings.coordinator);
}

Status check(const WorkerSettings& settings, const Origins& origins) {
  const Checker<WorkerSettings> checker(settings, origins);
  if (Status s = checker.each_value(); !s) return s;
  if (Status s = checker.heartbeats(); !s) return s;
  if (settings.activation == Activation::kView) {
    if (settings.transport != TransportChoice::kAuto &&
        settings.transport != TransportChoice::kShm) {
      return checker.refuse("activation", "transport",
                            "transport = auto or shm with view, which maps the trainer's shared "
                            "memory; or activation = auto, flip, staged or serial");
    }
    if (settings.device >= 0) {
      return checker.refuse("activation", "device",
                            "device = none with view, which maps the trainer's shared memory into "
                            "this process; or activation = auto, flip, staged or serial");
    }
    if (!settings.layout.empty()) {
      return checker.refuse("activation",
                            "auto, flip, staged or serial with a layout (of " +
                                std::to_string(settings.layout.size()) +
                                " tensors): view shows whole tensors as they are published");
    }
  }
  return checker.is_reached("coordinator", settings.coordinator);
}

}  // namespace weightcast::config
