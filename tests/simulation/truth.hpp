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
  std::uint64_t drained = 0;            ///< switches in place that had leases to wait for
  std::uint64_t dirty_failures = 0;     ///< versions that did not come whole in place
  std::uint64_t refused_dirty = 0;      ///< leases refused because a version came in place
  std::uint64_t network_reads = 0;      ///< shares read over the network
  std::uint64_t network_failures = 0;   ///< given up because the holder was not reached
  std::uint64_t announced = 0;          ///< captures that an engine was told of while they ran
  std::uint64_t read_ahead = 0;         ///< words taken over that were read before the seal
  std::uint64_t relayed = 0;            ///< versions read from another engine
  std::uint64_t messages = 0;
  std::uint64_t events = 0;

  void add(const Coverage& other);
  std::string text() const;
};

class Truth {
 public:
  /// @param most_kept versions that sources may be asked to keep at once
  Truth(std::uint32_t ranks, std::size_t most_kept, std::uint32_t max_dirty)
      : ranks_(ranks), most_kept_(most_kept), max_dirty_(max_dirty) {}

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

  /// What an observer would be shown holds together.
  void coordinator_shown(const JobStatus& picture);
  /// Looks at everything that a coordinator said in one call.
  /// @param all_ranks whether it is in touch with every rank
  void coordinator_said(const Run& run, std::uint64_t committed, bool all_ranks,
                        const std::vector<protocol::Outgoing>& messages);

  /// A receiver has placed and verified all of a version, really.
  void staged(const std::string& name, std::uint64_t incarnation, const Version& version);
  /// A receiver whose versions come in place after the commit, and whether it is without one because
  /// such a version did not come whole.
  /// @param since the first incarnation of its process
  void in_place(const std::string& name, std::uint64_t since, bool broken) {
    in_place_[name] = {since, broken};
  }
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
    bool relayed = false;
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

  void check_dirty(const Run& run, bool all_ranks, const std::vector<protocol::Outgoing>& messages);

  const std::uint32_t ranks_;
  const std::size_t most_kept_;
  const std::uint32_t max_dirty_;
  struct InPlace {
    std::uint64_t since = 0;
    bool broken = false;
  };
  bool is_in_place(const protocol::Member& member) const {
    const auto found = in_place_.find(member.name);
    return found != in_place_.end() && member.incarnation >= found->second.since;
  }
  std::map<std::string, InPlace> in_place_;  ///< by name, the newest process that is
  /// By attempt: whether its engine had nothing to lose when it was first let go.
  std::map<std::pair<Run, std::uint64_t>, bool> let_go_broken_;
  std::string rule_;
  std::string what_;
  std::map<std::pair<std::string, std::uint64_t>, Snapshot> snapshots_;
  std::map<Run, RunRecord> runs_;
  std::set<Version> commits_;
  std::set<std::tuple<std::string, std::uint64_t, Version>> staged_;
};

}  // namespace weightcast::simulation
