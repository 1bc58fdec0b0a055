#include "segment.hpp"

#include <cstring>

#include "cartpole.hpp"

namespace rl_loop {
namespace {

constexpr std::uint64_t kMagic = 0x31676573'706c6f72;  // "rolpseg1"
constexpr std::uint32_t kMaxSteps = 1U << 16;
constexpr std::uint32_t kMaxEnvironments = 1U << 12;
constexpr std::size_t kMaxTransitions = std::size_t{1} << 20;

struct Header {
  std::uint64_t magic = kMagic;
  std::uint64_t run = 0;
  std::uint64_t number = 0;
  std::uint32_t worker = 0;
  std::uint32_t steps = 0;
  std::uint32_t environments = 0;
  std::uint32_t episodes = 0;
};

// Visits the arrays of a segment in wire order with the number of elements each must have.
template <class SegmentType, class Visitor>
void for_each_array(SegmentType& segment, std::size_t episodes, Visitor&& visit) {
  const std::size_t transitions = segment.transitions();
  visit(segment.states, transitions * CartPole::kObservationSize);
  visit(segment.next_states, transitions * CartPole::kObservationSize);
  visit(segment.log_probs, transitions);
  visit(segment.rewards, transitions);
  visit(segment.actions, transitions);
  visit(segment.terminated, transitions);
  visit(segment.truncated, transitions);
  visit(segment.episode_returns, episodes);
}

template <class Array>
std::size_t bytes_of(const Array& array, std::size_t elements) {
  (void)array;
  return elements * sizeof(typename Array::value_type);
}

}  // namespace

std::vector<std::byte> encode(const Segment& segment) {
  const Header header{.run = segment.tag.run,
                      .number = segment.tag.number,
                      .worker = segment.worker,
                      .steps = segment.steps,
                      .environments = segment.environments,
                      .episodes = static_cast<std::uint32_t>(segment.episode_returns.size())};
  std::size_t total = sizeof(Header);
  for_each_array(segment, header.episodes, [&](const auto& array, std::size_t elements) {
    total += bytes_of(array, elements);
  });

  std::vector<std::byte> bytes(total);
  std::memcpy(bytes.data(), &header, sizeof(Header));
  std::size_t offset = sizeof(Header);
  for_each_array(segment, header.episodes, [&](const auto& array, std::size_t elements) {
    const std::size_t size = bytes_of(array, elements);
    if (size > 0) std::memcpy(bytes.data() + offset, array.data(), size);
    offset += size;
  });
  return bytes;
}

std::optional<Segment> decode(std::span<const std::byte> bytes) {
  Header header;
  if (bytes.size() < sizeof(Header)) return std::nullopt;
  std::memcpy(&header, bytes.data(), sizeof(Header));
  if (header.magic != kMagic || header.steps == 0 || header.steps > kMaxSteps ||
      header.environments == 0 || header.environments > kMaxEnvironments) {
    return std::nullopt;
  }
  Segment segment;
  segment.tag = {header.run, header.number};
  segment.worker = header.worker;
  segment.steps = header.steps;
  segment.environments = header.environments;
  if (segment.transitions() > kMaxTransitions || header.episodes > segment.transitions()) {
    return std::nullopt;
  }

  std::size_t expected = sizeof(Header);
  for_each_array(segment, header.episodes, [&](const auto& array, std::size_t elements) {
    expected += bytes_of(array, elements);
  });
  if (bytes.size() != expected) return std::nullopt;

  std::size_t offset = sizeof(Header);
  for_each_array(segment, header.episodes, [&](auto& array, std::size_t elements) {
    const std::size_t size = bytes_of(array, elements);
    array.resize(elements);
    if (size > 0) std::memcpy(array.data(), bytes.data() + offset, size);
    offset += size;
  });
  for (const std::uint8_t action : segment.actions) {
    if (action >= CartPole::kActionCount) return std::nullopt;
  }
  return segment;
}

}  // namespace rl_loop
