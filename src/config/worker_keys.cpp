#include "config/common_keys.hpp"
#include "config/keys.hpp"

namespace weightcast::config {
namespace {

constexpr std::uint64_t kMaxPointsBehind = 1'000'000'000'000'000;

Text receiver_text() {
  return {std::string(base::kNameRule) + ", or nothing",
          [](std::string_view text) { return text.empty() || base::is_name(text); }};
}

/// A device's number; in the options -1 is none.
struct Device {
  static constexpr const char* kType = "whole number";
  static constexpr std::uint64_t kMost = 1023;

  std::string allowed() const { return "0 to " + std::to_string(kMost) + " or none"; }
  std::optional<int> parse(std::string_view text) const {
    if (text == "none") return -1;
    const auto number = parse_count(text);
    if (!number || *number > kMost) return std::nullopt;
    return static_cast<int>(*number);
  }
  std::string show(int value) const { return value == -1 ? "none" : std::to_string(value); }
  bool is_allowed(int value) const { return -1 <= value && value <= static_cast<int>(kMost); }
};

std::vector<Key<WorkerSettings>> make_worker_keys() {
  using namespace std::chrono_literals;
  using S = WorkerSettings;
  std::vector<Key<S>> keys;
  add_common_keys(keys);
  const auto add = [&](auto&&... its) {
    keys.push_back(make_key<S>(std::forward<decltype(its)>(its)...));
  };
  add("name", &S::name, receiver_text(),
      "Unique among the job's receivers. Empty: `worker-<pid>-<n>`.");
  add("activation", &S::activation,
      Choice<Activation>{{{"auto", Activation::kAuto},
                          {"view", Activation::kView},
                          {"flip", Activation::kFlip},
                          {"staged", Activation::kStaged},
                          {"serial", Activation::kSerial}}},
      "How a version is taken in, from the freest to the tightest. `auto`: the first that the "
      "transport, the layout and `memory_budget` allow.");
  add("memory_budget", &S::memory_budget, Size{},
      "Memory of this process that versions may take. 0: what is available when the first one "
      "comes.");
  add("device", &S::device, Device{},
      "The accelerator in whose memory versions shall lie, which `memory_budget` is about then. "
      "`none`: host memory.");
  add("bucket_bytes", &S::bucket_bytes, Size{},
      "Bytes that move as one unit. 0: by the plan, which says why.");
  add("relay", &S::relay, Truth{},
      "Mode `p2p` over tcp: serve what is served here to those who join.");
  add("verify_view", &S::verify_view, Truth{},
      "Activation `view`: read and check every byte before a version counts as staged.");
  add("max_staleness", &S::max_staleness, Count{0, kMaxPointsBehind},
      "`acquire()` refuses where the trainer has published a point that is further ahead than "
      "this. "
      "0: serve regardless.");
  add("serve_detached", &S::serve_detached, Truth{}, "Serve on while the trainer is not heard.");
  add("lease_deadline", &S::lease_deadline, Time{1ms, 24h},
      "A lease that is held longer makes its engine lag: it leaves the rounds and catches up "
      "alone.");
  return keys;
}

}  // namespace

const std::vector<Key<WorkerSettings>>& worker_keys() {
  static const std::vector<Key<WorkerSettings>> keys = make_worker_keys();
  return keys;
}

}  // namespace weightcast::config
