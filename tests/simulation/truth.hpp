// What the simulation knows and the machines do not: what each trainer had at each publish point,
// who has really staged what, and whether all seven rules of the design hold.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <weightcast/types.hpp>

#include "plan/manifest.hpp"
#include "protocol/coordinator.hpp"

namespace weightcast::simulation {

using Pid = std::uint32_t;
/// A word of a policy: the training step that wrote it, and its position.
using Word = std::uint64_t;

/// Counts over one or many seeds; the tests ask for a floor under each.
struct Coverage {
  std::uint64_t commits = 0;
  std::uint64_t receivers_evicted = 0;
  std::uint64_t sources_evicted = 0;
  std::uint64_t rejoins = 0;
  std::uint64_t catch_ups = 0;
  std::uint64_t demotions = 0;
  std::uint64_t grants_void = 0;
  std::uint64_t rounds_aborted = 0;
  std::uint64_t new_runs = 0;
  std::uint64_t verdicts = 0;
  std::uint64_t void_verdicts = 0;
  std::uint64_t captures = 0;
  std::uint64_t stalls = 0;             ///< captures that the fence gave up
  std::uint64_t locked_slots = 0;       ///< slots refused to a writer because a reader held them
  std::uint64_t stale_slots = 0;        ///< slots refused to a reader
  std::uint64_t corruptions = 0;
  std::uint64_t corruptions_found = 0;
  std::uint64_t leases = 0;
  std::uint64_t lease_checks = 0;
  std::uint64_t served_over_steps = 0;  ///< lease checks while the trainer was two steps further
  std::uint64_t kills = 0;
  std::uint64_t leaves = 0;
  std::uint64_t stops = 0;
  std::uint64_t partitions = 0;
  std::uint64_t superseded = 0;
  std::uint64_t messages = 0;
  std::uint64_t events = 0;

  void add(const Coverage& other);
  std::string text() const;
};

class Truth {
 public:
  explicit Truth(std::uint32_t ranks) : ranks_(ranks) {}

  /// Notes the first broken rule; what follows from it is not interesting.
  void fail(const std::string& rule, const std::string& what);
  bool failed() const noexcept { return !rule_.empty(); }
  const std::string& rule() const noexcept { return rule_; }
  const std::string& what() const noexcept { return what_; }

  /// What a rank's tensors held at a publish point, taken at once.
  struct Snapshot {
    std::uint32_t rank = 0;
    Version version;                ///< by the trainer's own count of its points
    std::uint64_t launch = 0;
    std::optional<std::uint64_t> step;  ///< in lockstep: the step that all ranks took together
    std::vector<Word> words;
  };
  void point_captured(const std::string& object, std::uint64_t generation, Snapshot snapshot);

  /// Looks at everything that a coordinator said in one call.
  void coordinator_said(const Run& run, std::uint64_t committed,
                        const std::vector<protocol::Outgoing>& messages);

  /// A receiver has placed and verified all of a version, really.
  void staged(const std::string& name, std::uint64_t incarnation, const Version& version);
  /// Leases of `name` get `version` from now on instead of `before`.
  void switched(const std::string& name, const Version& before, const Version& version,
                const Run& newest_run);

  /// The words of one share as a lease sees them now.
  void check_share(const std::string& reader, const Version& version, const plan::Share& share,
                   const std::vector<Word>& words);

  std::uint64_t commits() const noexcept { return commits_.size(); }
  Coverage coverage;

 private:
  struct Attempt {
    std::string name;
    std::uint64_t incarnation = 0;
    std::uint64_t number = 0;
    bool before_commit = false;
  };
  struct RunRecord {
    std::map<std::uint64_t, plan::Manifest> manifests;
    std::map<std::uint64_t, Attempt> attempts;
    std::map<std::uint64_t, std::pair<std::vector<std::string>, std::vector<std::string>>> verdicts;
    std::uint64_t committed = 0;
  };

  void check_prepare(const Run& run, RunRecord& record, const protocol::Member& to,
                     std::uint64_t committed, const protocol::Prepare& prepare);
  void check_orders(const Run& run, const RunRecord& record, const protocol::Member& to,
                    const protocol::ReceiverOrders& orders,
                    const std::optional<std::vector<std::uint64_t>>& keep);
  void check_verdict(RunRecord& record, const protocol::Verdict& verdict);

  const std::uint32_t ranks_;
  std::string rule_;
  std::string what_;
  std::map<std::pair<std::string, std::uint64_t>, Snapshot> snapshots_;
  std::map<Run, RunRecord> runs_;
  std::set<Version> commits_;
  std::set<std::tuple<std::string, std::uint64_t, Version>> staged_;
};

}  // namespace weightcast::simulation
