#include "trajectories.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

#include <zmq.hpp>

namespace rl_loop {
namespace {

// A queue of two: more would only hold segments that are stale when they are read.
constexpr int kQueueLength = 2;
constexpr std::int64_t kMaxMessageBytes = std::int64_t{64} << 20;
constexpr std::uint32_t kMaxWorkers = 1024;

bool is_fresh(const WeightTag& tag, const WeightTag& newest) {
  return tag.run == newest.run && tag.number <= newest.number && tag.number + 1 >= newest.number;
}

}  // namespace

std::string trajectory_endpoint(const std::string& directory, int rank) {
  return "ipc://" + directory + "/trajectories-" + std::to_string(rank);
}

struct SegmentSender::Sockets {
  zmq::context_t context{1};
  std::vector<zmq::socket_t> ranks;
};

SegmentSender::SegmentSender(const std::string& directory, int trainer_ranks)
    : sockets_(std::make_unique<Sockets>()) {
  for (int rank = 0; rank < trainer_ranks; ++rank) {
    zmq::socket_t socket(sockets_->context, zmq::socket_type::push);
    socket.set(zmq::sockopt::linger, 0);
    socket.set(zmq::sockopt::sndhwm, kQueueLength);
    // Without this the socket queues for a rank that does not exist, and turns go to waste.
    socket.set(zmq::sockopt::immediate, 1);
    socket.set(zmq::sockopt::reconnect_ivl_max, 500);
    socket.connect(trajectory_endpoint(directory, rank));
    sockets_->ranks.push_back(std::move(socket));
  }
}

SegmentSender::~SegmentSender() = default;

bool SegmentSender::send(const Segment& segment, Clock::time_point deadline) {
  const std::vector<std::byte> bytes = encode(segment);
  auto& ranks = sockets_->ranks;
  do {
    for (std::size_t attempt = 0; attempt < ranks.size(); ++attempt) {
      zmq::socket_t& socket = ranks[next_rank_];
      // The rank whose turn it is gets a share of the time that is left before it is passed over.
      socket.set(zmq::sockopt::sndtimeo,
                 static_cast<int>(remaining(deadline).count() /
                                  static_cast<std::int64_t>(ranks.size() - attempt)));
      next_rank_ = (next_rank_ + 1) % ranks.size();
      if (socket.send(zmq::buffer(bytes), zmq::send_flags::none)) return true;
    }
  } while (Clock::now() < deadline);
  return false;
}

struct SegmentCollector::Socket {
  zmq::context_t context{1};
  zmq::socket_t pull{context, zmq::socket_type::pull};
};

SegmentCollector::SegmentCollector(const std::string& directory, int rank)
    : socket_(std::make_unique<Socket>()) {
  socket_->pull.set(zmq::sockopt::linger, 0);
  socket_->pull.set(zmq::sockopt::rcvhwm, kQueueLength);
  socket_->pull.set(zmq::sockopt::maxmsgsize, kMaxMessageBytes);
  socket_->pull.bind(trajectory_endpoint(directory, rank));
}

SegmentCollector::~SegmentCollector() = default;

std::size_t SegmentCollector::collect(WeightTag newest, std::size_t wanted,
                                      Clock::time_point deadline) {
  counts_.stale += std::erase_if(
      at_hand_, [&](const Segment& segment) { return !is_fresh(segment.tag, newest); });
  for (;;) {
    // What has already arrived is read even when enough is at hand: it may be newer.
    const bool enough = at_hand_.size() >= wanted;
    const auto wait = enough ? std::chrono::milliseconds(0) : remaining(deadline);
    zmq::message_t message;
    socket_->pull.set(zmq::sockopt::rcvtimeo, static_cast<int>(wait.count()));
    if (!socket_->pull.recv(message, zmq::recv_flags::none)) {
      if (enough || Clock::now() >= deadline) return at_hand_.size();
      continue;
    }
    auto segment = decode({static_cast<const std::byte*>(message.data()), message.size()});
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
