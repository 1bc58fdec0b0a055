#include "trajectories.hpp"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

namespace rl_loop {
namespace {

constexpr std::uint32_t kMaxWorkers = 1024;

}  // namespace

std::size_t SegmentCollector::collect(WeightTag newest, std::size_t wanted,
                                      Clock::time_point deadline) {
  counts_.stale += std::erase_if(
      at_hand_, [&](const Segment& segment) { return !is_fresh(segment.tag, newest); });
  for (;;) {
    // What has already arrived is read even when enough is at hand: it may be newer.
    const bool enough = at_hand_.size() >= wanted;
    const auto wait = enough ? std::chrono::milliseconds(0) : remaining(deadline);
    const auto message = socket_.receive(wait);
    if (!message) {
      if (enough || Clock::now() >= deadline) return at_hand_.size();
      continue;
    }
    auto segment = decode(*message);
    if (!segment || segment->worker >= kMaxWorkers) {
      ++counts_.malformed;
    } else {
      accept(*std::move(segment), newest);
    }
    // Workers that outpace the reading must not hold it here.
    if (at_hand_.size() >= 4 * std::max<std::size_t>(wanted, 1) || Clock::now() >= deadline) {
      return at_hand_.size();
    }
  }
}

void SegmentCollector::accept(Segment segment, WeightTag newest) {
  if (!is_fresh(segment.tag, newest)) {
    ++counts_.stale;
    return;
  }
  if (!at_hand_.empty() && (at_hand_.front().steps != segment.steps ||
                            at_hand_.front().environments != segment.environments)) {
    ++counts_.malformed;
    return;
  }
  ++counts_.accepted;
  if (versions_seen_.size() <= segment.worker) versions_seen_.resize(segment.worker + 1);
  versions_seen_[segment.worker] = segment.tag.number;
  episode_returns_.insert(episode_returns_.end(), segment.episode_returns.begin(),
                          segment.episode_returns.end());
  at_hand_.push_back(std::move(segment));
}

std::vector<Segment> SegmentCollector::take(std::size_t count) {
  std::stable_sort(at_hand_.begin(), at_hand_.end(), [](const Segment& left, const Segment& right) {
    return left.tag.number > right.tag.number;
  });
  count = std::min(count, at_hand_.size());
  const auto end = at_hand_.begin() + static_cast<std::ptrdiff_t>(count);
  std::vector<Segment> taken(std::make_move_iterator(at_hand_.begin()),
                             std::make_move_iterator(end));
  at_hand_.erase(at_hand_.begin(), end);
  return taken;
}

std::vector<float> SegmentCollector::take_episode_returns() {
  return std::exchange(episode_returns_, {});
}

}  // namespace rl_loop
