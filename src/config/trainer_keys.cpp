#include "config/common_keys.hpp"
#include "config/keys.hpp"
#include "config/torchrun.hpp"

namespace weightcast::config {
namespace {

constexpr std::uint64_t kMaxPoints = 1'000'000'000'000'000;

Text listen_text() {
  return {"address:port, as 0.0.0.0:29577 or [::]:29577",
          [](std::string_view text) { return text.empty() || parse_place(text).has_value(); }};
}

/// The floating types, or none of them.
struct Cast {
  static constexpr const char* kType = "choice";
  static constexpr DType kTypes[] = {DType::kF64, DType::kF32, DType::kF16, DType::kBF16};

  std::string allowed() const { return "unchanged, f64, f32, f16 or bf16"; }
  std::optional<std::optional<DType>> parse(std::string_view text) const {
    std::optional<std::optional<DType>> value;
    if (text == "unchanged") value.emplace();
    for (const DType dtype : kTypes) {
      if (dtype_name(dtype) == text) value.emplace(dtype);
    }
    return value;
  }
  std::string show(const std::optional<DType>& value) const {
    return value ? std::string(dtype_name(*value)) : "unchanged";
  }
  bool is_allowed(const std::optional<DType>& value) const {
    return !value || dtype_is_floating(*value);
  }
};

std::vector<Key<TrainerSettings>> make_trainer_keys() {
  using namespace std::chrono_literals;
  using S = TrainerSettings;
  std::vector<Key<S>> keys;
  add_common_keys(keys);
  const auto add = [&](auto&&... its) {
    keys.push_back(make_key<S>(std::forward<decltype(its)>(its)...));
  };
  add("rank", &S::rank, Count{0, kMaxRanks - 1},
      "Of this process among the trainer's. torchrun says it.");
  add("world_size", &S::world_size, Count{1, kMaxRanks},
      "How many ranks the trainer has. torchrun says it.");
  add("launch", &S::launch,
      Text{"at most 128 characters", [](std::string_view text) { return text.size() <= 128; }},
      "Which launch of the job this rank belongs to, equal on all ranks. torchrun says it.");
  add("takeover", &S::takeover, Truth{}, "Replace a living trainer of the same job and policy.");
  add("mode", &S::mode, Choice<Mode>{{{"broadcast", Mode::kBroadcast}, {"p2p", Mode::kP2p}}},
      "`broadcast`: every version to all receivers together. `p2p`: each receiver at a pace of its "
      "own.");
  add("listen", &S::listen, listen_text(),
      "Where rank 0 is reached from other hosts; other ranks pass it over. Empty: members of this "
      "host only; where torchrun spans nodes, `0.0.0.0` and `port`.");
  add("port", &S::port, Count{1, 65535},
      "Of rank 0 in a job that torchrun spreads over several nodes, where `listen` and "
      "`coordinator` "
      "say nothing else. torchrun's own MASTER_PORT is never taken.");
  add("slots", &S::slots, Count{2, 16}, "Versions that a rank's shared memory has room for.");
  add("slot_bytes", &S::slot_bytes, Size{},
      "Room in each slot. 0: this rank's share when it opens, an eighth more and 1 MiB.");
  add("staging", &S::staging,
      Choice<Staging>{
          {{"auto", Staging::kAuto}, {"host", Staging::kHost}, {"device", Staging::kDevice}}},
      "Where tensors of a device are captured to. `host`: shared memory. `device`: slots in the "
      "device's own memory. `auto`: there, where they fit into `device_budget`.");
  add("device_budget", &S::device_budget, Size{},
      "Memory of a device that slots may take. 0: none.");
  add("trusted_fabric", &S::trusted_fabric, Truth{},
      "The links between the hosts may carry weights that are not encrypted, as `nccl` sends "
      "them.");
  add("dtype", &S::dtype, Cast{}, "Floating tensors are cast to it when they are captured.");
  add("inline_bytes", &S::inline_bytes, Size{},
      "Smaller tensors are copied by `publish()` itself.");
  add("stall", &S::stall, Time{0ms, 1h}, "Longest wait in `publish()` or `fence()`.",
      std::vector<Variable>{{"WEIGHTCAST_STALL_MS", "ms"}});
  add("max_coalesced", &S::max_coalesced, Count{0, kMaxPoints, true},
      "Points in a row that may be coalesced before `publish()` waits, up to `stall`, for a "
      "grant.");
  add("compare_every", &S::compare_every, Count{0, kMaxRanks},
      "Versions between comparisons of the ranks. 0: never.");
  add("min_receivers", &S::min_receivers, Count{0, kMaxRanks}, "`flush()` fails below it.");
  add("max_dirty", &S::max_dirty, Count{0, kMaxRanks},
      "Receivers of activation `serial` that may be without a policy at once. 0: half of them, at "
      "least one.");
  add("attempt_timeout", &S::attempt_timeout, Time{1ms, 24h},
      "For a version to be staged by a receiver, and again to be applied; at least one heartbeat.");
  return keys;
}

}  // namespace

const std::vector<Key<TrainerSettings>>& trainer_keys() {
  static const std::vector<Key<TrainerSettings>> keys = make_trainer_keys();
  return keys;
}

}  // namespace weightcast::config
