#include "sample_collector.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <numeric>
#include <utility>

namespace grpo {

using rl_loop::Clock;
using rl_loop::WeightTag;

std::size_t SampleCollector::collect(WeightTag newest, std::size_t wanted,
                                     Clock::time_point deadline) {
  counts_.stale += std::erase_if(at_hand_, [&](const SampleBatch& batch) {
    return !rl_loop::is_fresh(batch.tag, newest);
  });
  for (;;) {
    // What has already arrived is read even when enough is at hand: it may be newer.
    const bool enough = at_hand_.size() >= wanted;
    const auto message =
        socket_.receive(enough ? std::chrono::milliseconds(0) : rl_loop::remaining(deadline));
    if (message) {
      auto batch = decode(*message);
      if (batch && has_our_shape(*batch)) {
        accept(*std::move(batch), newest);
      } else {
        ++counts_.malformed;
      }
    } else if (enough) {
      return at_hand_.size();
    }
    // Workers that outpace the reading must not hold it here.
    if (at_hand_.size() >= 4 * std::max<std::size_t>(wanted, 1) || Clock::now() >= deadline) {
      return at_hand_.size();
    }
  }
}

bool SampleCollector::has_our_shape(const SampleBatch& batch) const {
  return shape_.groups == 0 ||
         (batch.groups == shape_.groups && batch.group_size == shape_.group_size &&
          batch.prompt_length == shape_.prompt_length &&
          batch.completion_length == shape_.completion_length);
}

void SampleCollector::accept(SampleBatch batch, WeightTag newest) {
  if (!rl_loop::is_fresh(batch.tag, newest)) {
    ++counts_.stale;
    return;
  }
  shape_.groups = batch.groups;
  shape_.group_size = batch.group_size;
  shape_.prompt_length = batch.prompt_length;
  shape_.completion_length = batch.completion_length;
  ++counts_.accepted;
  counts_.tokens += batch.sampled_tokens();
  counts_.samples += batch.samples();
  counts_.rewards += std::accumulate(batch.rewards.begin(), batch.rewards.end(), 0.0);
  at_hand_.push_back(std::move(batch));
}

std::vector<SampleBatch> SampleCollector::take(std::size_t count) {
  std::stable_sort(at_hand_.begin(), at_hand_.end(), [](const auto& left, const auto& right) {
    return left.tag.number > right.tag.number;
  });
  count = std::min(count, at_hand_.size());
  const auto end = at_hand_.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<SampleBatch> taken(std::make_move_iterator(at_hand_.begin()),
                                 std::make_move_iterator(end));
  at_hand_.erase(at_hand_.begin(), end);
  return taken;
}

}  // namespace grpo
