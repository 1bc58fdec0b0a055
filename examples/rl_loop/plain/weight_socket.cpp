#include "plain/weight_socket.hpp"

#include <chrono>
#include <cstring>
#include <span>
#include <stdexcept>
#include <vector>

#include <torch/types.h>
#include <zmq.hpp>

namespace rl_loop {
namespace {

std::string endpoint(const std::string& directory) { return "ipc://" + directory + "/weights"; }

std::size_t parameter_bytes(const PolicyImpl& policy) {
  std::size_t total = 0;
  for (const torch::Tensor& parameter : policy.parameters()) total += parameter.nbytes();
  return total;
}

// A start time that all ranks take from rank 0.
std::uint64_t agree_on_run(RankGroup& ranks) {
  std::uint64_t run = static_cast<std::uint64_t>(
      std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1));
  std::vector<std::uint8_t> bytes(sizeof(run));
  std::memcpy(bytes.data(), &run, sizeof(run));
  const auto all = ranks.exchange(bytes);
  std::memcpy(&run, all.front().data(), sizeof(run));
  return run;
}

}  // namespace

struct WeightSender::Socket {
  zmq::context_t context{1};
  zmq::socket_t pub{context, zmq::socket_type::pub};
};

WeightSender::WeightSender(const PolicyImpl& policy, RankGroup& ranks, const std::string& directory)
    : policy_(policy), version_(agree_on_run(ranks), 0) {
  if (ranks.rank() != 0) return;
  socket_ = std::make_unique<Socket>();
  socket_->pub.set(zmq::sockopt::linger, 0);
  socket_->pub.bind(endpoint(directory));
}

WeightSender::~WeightSender() = default;

void WeightSender::publish() {
  ++version_.number;
  if (!socket_) return;
  zmq::message_t message(sizeof(WeightTag) + parameter_bytes(policy_));
  auto* out = static_cast<std::byte*>(message.data());
  std::memcpy(out, &version_, sizeof(WeightTag));
  out += sizeof(WeightTag);
  for (const torch::Tensor& parameter : policy_.parameters()) {
    std::memcpy(out, parameter.const_data_ptr(), parameter.nbytes());
    out += parameter.nbytes();
  }
  socket_->pub.send(message, zmq::send_flags::none);
}

struct WeightReceiver::Socket {
  zmq::context_t context{1};
  zmq::socket_t sub{context, zmq::socket_type::sub};
};

WeightReceiver::WeightReceiver(const std::string& directory) : socket_(std::make_unique<Socket>()) {
  socket_->sub.set(zmq::sockopt::linger, 0);
  socket_->sub.set(zmq::sockopt::conflate, 1);
  socket_->sub.set(zmq::sockopt::subscribe, "");
  socket_->sub.set(zmq::sockopt::reconnect_ivl_max, 500);
  socket_->sub.connect(endpoint(directory));
}

WeightReceiver::~WeightReceiver() = default;

WeightReceiver::Lease WeightReceiver::acquire(Clock::time_point deadline) {
  receive(version_.number == 0 ? deadline : Clock::now());
  return {version_.number == 0 ? nullptr : &policy_, version_};
}

bool WeightReceiver::wait_for(std::uint64_t number, Clock::time_point deadline) {
  while (version_.number < number) {
    if (!receive(deadline)) return false;
  }
  return true;
}

bool WeightReceiver::receive(Clock::time_point deadline) {
  zmq::message_t message;
  socket_->sub.set(zmq::sockopt::rcvtimeo, static_cast<int>(remaining(deadline).count()));
  if (!socket_->sub.recv(message, zmq::recv_flags::none)) return false;
  if (message.size() != sizeof(WeightTag) + parameter_bytes(policy_)) {
    throw std::runtime_error("the trainer sent " + std::to_string(message.size()) +
                             " bytes, but this worker's policy has " +
                             std::to_string(sizeof(WeightTag) + parameter_bytes(policy_)) +
                             ": run the same build on both ends");
  }
  const auto* in = static_cast<const std::byte*>(message.data());
  std::memcpy(&version_, in, sizeof(WeightTag));
  in += sizeof(WeightTag);
  for (const torch::Tensor& parameter : policy_.parameters()) {
    std::memcpy(parameter.mutable_data_ptr(), in, parameter.nbytes());
    in += parameter.nbytes();
  }
  return true;
}

}  // namespace rl_loop
