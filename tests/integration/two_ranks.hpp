// Both ranks of a trainer in one process, in lockstep.
#pragma once

#include <functional>
#include <utility>

#include "integration/local_job.hpp"

namespace weightcast::test {

struct TwoRanks {
  TwoRanks(PublisherOptions options, ToyPolicy& policy_0, ToyPolicy& policy_1)
      : policies{&policy_0, &policy_1},
        zero(open(with_rank(options, 0), policy_0)),
        one(open(with_rank(options, 1), policy_1)) {
    if (!eventually([&] { return one.status().connected; })) {
      ADD_FAILURE() << "rank 1 does not join: " << one.status().blocked;
    }
  }

  static PublisherOptions with_rank(PublisherOptions options, std::uint32_t rank) {
    options.rank = rank;
    options.world_size = 2;
    return options;
  }

  static Publisher open(const PublisherOptions& options, ToyPolicy& policy) {
    auto opened = Publisher::open(options, policy.lister());
    if (!opened) throw Error(opened.status());
    return std::move(*opened);
  }

  /// One step and publish point on both.
  void train() {
    ++step;
    [[maybe_unused]] const Status fenced_0 = zero.fence();
    [[maybe_unused]] const Status fenced_1 = one.fence();
    policies[0]->step(step);
    policies[1]->step(step + drift);
    zero.publish(policies[0]->lister());
    one.publish(policies[1]->lister());
  }

  /// @return false after kPatience
  bool train_until(const std::function<bool()>& done) {
    return eventually([&] {
      train();
      return done();
    });
  }

  ToyPolicy* policies[2];
  std::uint64_t step = 0;
  std::uint64_t drift = 0;  ///< what rank 1 trains differs by
  Publisher zero;
  Publisher one;
};

}  // namespace weightcast::test
